//! What a script can call, one file per concept.

mod batch;
mod caught;
mod checkpoint;
mod checkpoints;
mod core;
mod data;
mod dist;
mod loss;
mod nn;
mod optim;
mod options;
mod plot;
mod run;
mod tensor;
pub mod transform;

pub use nn::model_of;
pub use options::declarations;

use super::registry::Api;

/// Registers everything, in the order in which `nepa api` presents it.
pub fn register(api: &mut Api<'_>) {
    core::register(api);
    options::register(api);
    caught::register(api);
    tensor::register(api);
    nn::register(api);
    loss::register(api);
    optim::register(api);
    dist::register(api);
    data::register(api);
    batch::register(api);
    transform::register(api);
    checkpoint::register(api);
    run::register(api);
    checkpoints::register(api);
    plot::register(api);
}
