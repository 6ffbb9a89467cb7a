//! A table of learned vectors, looked up by index.

use super::{Context, Module, ModuleVisitor, parameter};
use crate::error::{Result, ensure};
use crate::random;
use crate::tensor::shape_text;
use tch::{Kind, Tensor};

/// `weight` [rows, width], starting from a standard normal distribution.
pub struct Embedding {
    weight: Tensor,
    padding: Option<i64>,
}

impl Embedding {
    /// A table of `rows` vectors; row `padding` starts at zero and gets no gradient.
    pub fn new(rows: i64, width: i64, padding: Option<i64>) -> Result<Self> {
        ensure!(rows > 0 && width > 0, "an embedding needs positive sizes, found {rows} x {width}");
        let padding = padding.map(|i| if i < 0 { i + rows } else { i });
        let inside = padding.is_none_or(|i| (0..rows).contains(&i));
        ensure!(inside, "an embedding of {rows} rows has no row {} for padding", padding.unwrap_or_default());
        let values = random::next_key().normal(&[rows, width])?;
        if let Some(i) = padding {
            let _ = values.f_select(0, i)?.f_zero_()?;
        }
        Ok(Self { weight: parameter(values)?, padding })
    }
}

impl Module for Embedding {
    fn describe(&self) -> String {
        let size = self.weight.size();
        format!("embedding({}, {})", size[0], size[1])
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.parameter("weight", &self.weight);
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        ensure!(
            matches!(x.kind(), Kind::Int64 | Kind::Int),
            "{} expects int64 indices, found {}",
            self.describe(),
            shape_text(x)
        );
        Ok(Tensor::f_embedding(&self.weight, x, self.padding.unwrap_or(-1), false, false)?)
    }
}
