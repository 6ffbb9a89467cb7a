//! The optimizers: their options, and the algorithm of each.

use crate::bail_hint;
use crate::error::{Result, did_you_mean, ensure};
use crate::ffi::UpdateRule;
use crate::options::Options;
use crate::{choices, options};
use tch::Tensor;
use wildmatch::WildMatch;

options! {
    /// Options for parameters whose name matches a pattern.
    pub struct PatternGroup {
        /// Name pattern, in which `*` stands for any characters.
        pattern: String = String::new(),
        /// Factor of the learning rate passed to `step`; () means 1.
        lr_scale: Option<f64> = None,
        /// Weight decay; () means the optimizer's rule.
        weight_decay: Option<f64> = None,
        /// Power of the layer-wise decay, for `step` with a function; () means 0.
        llrd_power: Option<i64> = None,
    }
}

options! {
    /// Options that a grouping function returns for a parameter.
    pub struct ParamGroupOptions {
        /// Factor of the learning rate passed to `step`.
        lr_scale: f64 = 1.0,
        /// Weight decay of this parameter; () means the optimizer's rule.
        weight_decay: Option<f64> = None,
        /// Power of the layer-wise decay, for `step` with a function.
        llrd_power: i64 = 0,
    }
}

/// Names of a parameter's states in checkpoints, in the order of [`UpdateRule`]. `step` is a scalar, the others have the
/// parameter's shape.
const MOMENTS: &[&str] = &["exp_avg", "exp_avg_sq", "step"];
const AVERAGE: &[&str] = &["exp_avg"];
const MOMENTUM: &[&str] = &["momentum_buffer"];

/// An algorithm with the names of its states.
pub struct Algorithm {
    /// The optimizer's name.
    pub name: &'static str,
    /// How it updates.
    pub rule: UpdateRule,
    /// What it keeps of each parameter.
    pub states: &'static [&'static str],
}

/// The options of an optimizer.
pub trait OptimizerOptions: Options {
    /// Checks the options. Gives the algorithms that the optimizer uses; the first one's name is its own.
    fn algorithms(&self) -> Result<Vec<Algorithm>>;

    /// Which of the algorithms updates a parameter.
    fn algorithm_of(&self, _name: &str, _param: &Tensor) -> usize {
        0
    }

    /// Checks the names in options of its own against those of the parameters.
    fn check_names(&self, _named: &[(String, Tensor)]) -> Result<()> {
        Ok(())
    }

    /// `weight_decay`, `no_decay` and `groups`.
    fn for_groups(&self) -> (f64, &[String], &[PatternGroup]);
}

/// Checks that a pattern that was given as `option` matches a parameter.
pub(super) fn ensure_matches(option: &str, pattern: &str, named: &[(String, Tensor)]) -> Result<()> {
    let wild = WildMatch::new(pattern);
    if !named.iter().any(|(name, _)| wild.matches(name)) {
        bail_hint!(
            "{option}: no parameter matches the pattern `{pattern}`{}",
            did_you_mean(pattern, named.iter().map(|(name, _)| name.as_str()));
            "`*` stands for any characters; print(model) lists the names"
        );
    }
    Ok(())
}

/// The default of `no_decay`: patterns that need not match.
pub(super) fn no_decay() -> Vec<String> {
    ["*bias*", "*layernorm*", "*layer_scale*", "*_norm*"].map(String::from).to_vec()
}

fn check_betas([b1, b2]: [f64; 2]) -> Result<()> {
    ensure!((0.0..1.0).contains(&b1) && (0.0..1.0).contains(&b2), "betas must lie in [0, 1), found [{b1}, {b2}]");
    Ok(())
}

fn check_momentum(momentum: f64) -> Result<()> {
    ensure!((0.0..1.0).contains(&momentum), "momentum must lie in [0, 1), found {momentum}");
    Ok(())
}

fn check_not_negative(name: &str, value: f64) -> Result<()> {
    ensure!(value >= 0.0 && value.is_finite(), "{name} must not be negative, found {value}");
    Ok(())
}

/// Declares an optimizer's options with those that all of them have.
macro_rules! optimizer_options {
    ($(#[doc = $about:literal])* pub struct $name:ident {
        $decay_doc:literal weight_decay = $decay:literal;
        $($(#[doc = $doc:literal])* $field:ident : $ty:ty = $default:expr),* $(,)?
    }
    $($algorithms:item)*
    ) => {
        options! {
            $(#[doc = $about])*
            pub struct $name {
                $($(#[doc = $doc])* $field: $ty = $default,)*
                #[doc = $decay_doc]
                weight_decay: f64 = $decay,
                /// Parameters without weight decay, besides those of at most one dimension (biases, norms, scales): name
                /// patterns, in which `*` stands for any characters.
                no_decay: Vec<String> = no_decay(),
                /// Parameter groups: a parameter takes the options of the first group whose pattern matches its name.
                /// Each is a map with `pattern` and the options of a grouping function, whose place they take.
                groups: Vec<PatternGroup> = Vec::new(),
            }
        }

        impl OptimizerOptions for $name {
            $($algorithms)*

            fn for_groups(&self) -> (f64, &[String], &[PatternGroup]) {
                (self.weight_decay, &self.no_decay, &self.groups)
            }
        }
    };
}

optimizer_options! {
    /// AdamW's hyperparameters.
    pub struct AdamwOptions {
        "Decoupled weight decay, multiplied by the learning rate." weight_decay = 0.05;
        /// Decay rates of the first and second moments.
        betas: [f64; 2] = [0.9, 0.95],
        /// Added to the square root of the second moment.
        eps: f64 = 1e-8,
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>> {
        check_betas(self.betas)?;
        check_not_negative("eps", self.eps)?;
        let rule = UpdateRule::Adamw { betas: self.betas, eps: self.eps };
        Ok(vec![Algorithm { name: "adamw", rule, states: MOMENTS }])
    }
}

optimizer_options! {
    /// The hyperparameters of SGD.
    pub struct SgdOptions {
        "Weight decay, added to the gradient as in PyTorch." weight_decay = 0.0;
        /// Decay rate of the momentum; 0 means none.
        momentum: f64 = 0.9,
        /// Whether the momentum looks a step ahead.
        nesterov: bool = false,
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>> {
        check_momentum(self.momentum)?;
        ensure!(!self.nesterov || self.momentum > 0.0, "nesterov needs a momentum, found {}", self.momentum);
        let rule = UpdateRule::Sgd { momentum: self.momentum, nesterov: self.nesterov };
        let states = if self.momentum == 0.0 { &[] } else { MOMENTUM };
        Ok(vec![Algorithm { name: "sgd", rule, states }])
    }
}

optimizer_options! {
    /// Lion's hyperparameters.
    pub struct LionOptions {
        "Decoupled weight decay, multiplied by the learning rate." weight_decay = 0.0;
        /// Weights of the average in an update, and in the average itself.
        betas: [f64; 2] = [0.9, 0.99],
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>> {
        check_betas(self.betas)?;
        Ok(vec![Algorithm { name: "lion", rule: UpdateRule::Lion { betas: self.betas }, states: AVERAGE }])
    }
}

optimizer_options! {
    /// The hyperparameters of LARS.
    pub struct LarsOptions {
        "Weight decay, added to the gradient before its norm is taken." weight_decay = 0.0;
        /// Decay rate of the momentum.
        momentum: f64 = 0.9,
        /// How large an update is to be, as a fraction of the parameter's norm.
        trust_coefficient: f64 = 0.001,
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>> {
        check_momentum(self.momentum)?;
        check_not_negative("trust_coefficient", self.trust_coefficient)?;
        let rule = UpdateRule::Lars { momentum: self.momentum, trust_coefficient: self.trust_coefficient };
        Ok(vec![Algorithm { name: "lars", rule, states: MOMENTUM }])
    }
}

optimizer_options! {
    /// The hyperparameters of LAMB.
    pub struct LambOptions {
        "Weight decay, added to the update before its norm is taken." weight_decay = 0.01;
        /// Decay rates of the first and second moments.
        betas: [f64; 2] = [0.9, 0.999],
        /// Added to the square root of the second moment.
        eps: f64 = 1e-6,
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>> {
        check_betas(self.betas)?;
        check_not_negative("eps", self.eps)?;
        let rule = UpdateRule::Lamb { betas: self.betas, eps: self.eps };
        Ok(vec![Algorithm { name: "lamb", rule, states: MOMENTS }])
    }
}

choices! {
    /// The optimizers.
    pub enum OptimizerKind {
        /// [`AdamwOptions`].
        Adamw = "adamw",
        /// [`SgdOptions`].
        Sgd = "sgd",
        /// [`LarsOptions`].
        Lars = "lars",
        /// [`LambOptions`].
        Lamb = "lamb",
        /// [`LionOptions`].
        Lion = "lion",
        /// [`MuonOptions`].
        Muon = "muon",
    }
}

choices! {
    /// How Muon fits the learning rate to a matrix of A rows and B columns.
    pub enum AdjustLr {
        /// × sqrt(max(1, A / B)), as in Muon's first publication.
        Original = "original",
        /// × 0.2 sqrt(max(A, B)), so that updates are as large as AdamW's (arXiv 2502.16982).
        MatchRmsAdamw = "match_rms_adamw",
    }
}

choices! {
    /// The dtype of Muon's Newton-Schulz iteration.
    pub enum NsDtype {
        /// As in PyTorch.
        Bfloat16 = "bfloat16",
        /// More exact, and on many CPUs faster.
        Float32 = "float32",
    }
}

/// The default of Muon's `exclude`: patterns that need not match.
fn excluded() -> Vec<String> {
    ["*embeddings*", "*classifier*"].map(String::from).to_vec()
}

optimizer_options! {
    /// Muon's hyperparameters, and AdamW's for what is no matrix.
    pub struct MuonOptions {
        "Decoupled weight decay, multiplied by the learning rate." weight_decay = 0.1;
        /// Decay rate of the momentum.
        momentum: f64 = 0.95,
        /// Whether the momentum looks a step ahead.
        nesterov: bool = true,
        /// Steps of the Newton-Schulz iteration.
        ns_steps: i64 = 5,
        /// Its dtype.
        ns_dtype: NsDtype = NsDtype::Bfloat16,
        /// How the learning rate fits a matrix: "match_rms_adamw" (arXiv 2502.16982), so that one learning rate serves
        /// both optimizers, or "original", which is PyTorch's default.
        adjust_lr_fn: AdjustLr = AdjustLr::MatchRmsAdamw,
        /// Matrices that AdamW updates all the same: name patterns.
        exclude: Vec<String> = excluded(),
        /// AdamW's decay rates of the first and second moments.
        betas: [f64; 2] = [0.9, 0.95],
        /// Added to the square root of AdamW's second moment.
        eps: f64 = 1e-8,
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>> {
        check_momentum(self.momentum)?;
        check_betas(self.betas)?;
        check_not_negative("eps", self.eps)?;
        ensure!((1..=100).contains(&self.ns_steps), "ns_steps must lie in 1..=100, found {}", self.ns_steps);
        let muon = UpdateRule::Muon {
            momentum: self.momentum,
            nesterov: self.nesterov,
            ns_steps: self.ns_steps,
            match_rms_adamw: self.adjust_lr_fn == AdjustLr::MatchRmsAdamw,
            bfloat16: self.ns_dtype == NsDtype::Bfloat16,
        };
        let adamw = UpdateRule::Adamw { betas: self.betas, eps: self.eps };
        Ok(vec![
            Algorithm { name: "muon", rule: muon, states: MOMENTUM },
            Algorithm { name: "adamw", rule: adamw, states: MOMENTS },
        ])
    }

    fn check_names(&self, named: &[(String, Tensor)]) -> Result<()> {
        if self.exclude == excluded() {
            return Ok(());
        }
        self.exclude.iter().try_for_each(|pattern| ensure_matches("exclude", pattern, named))
    }

    fn algorithm_of(&self, name: &str, param: &Tensor) -> usize {
        let is_muons = param.dim() == 2 && !self.exclude.iter().any(|pattern| WildMatch::new(pattern).matches(name));
        usize::from(!is_muons)
    }
}
