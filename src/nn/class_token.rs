//! One learned token in front of the patch tokens.

use super::{Context, Module, ModuleVisitor, expect_tokens, trunc_normal};
use crate::error::Result;
use tch::Tensor;

/// [B, T, D] -> [B, T + 1, D]; the parameter `cls_token` has shape [1, 1, D].
pub struct ClassToken {
    cls_token: Tensor,
}

impl ClassToken {
    /// A token of width `hidden_size`, drawn with the given deviation.
    pub fn new(hidden_size: i64, initializer_range: f64) -> Result<Self> {
        Ok(Self { cls_token: trunc_normal(&[1, 1, hidden_size], initializer_range)? })
    }
}

impl Module for ClassToken {
    fn describe(&self) -> String {
        format!("class_token({})", self.cls_token.size()[2])
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.parameter("cls_token", &self.cls_token);
    }

    fn flops(&self, _tokens: i64) -> Option<i64> {
        Some(0)
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        expect_tokens(x, self.cls_token.size()[2], self)?;
        let token = self.cls_token.f_expand([x.size()[0], 1, -1], false)?;
        Ok(Tensor::f_cat(&[token, x.shallow_clone()], 1)?)
    }
}
