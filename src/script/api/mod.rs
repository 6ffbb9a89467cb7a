//! What a script can call, one file per concept.

mod batch;
mod checkpoint;
mod core;
mod data;
mod dist;
mod loss;
mod nn;
mod optim;
mod options;
mod plot;
pub mod run;
mod saver;
mod tensor;
pub mod transform;
pub use options::declarations;

use super::docs::Reference;
use super::registry::Api;
use rhai::Engine;

/// Registers everything, in the order in which `nepa api` presents it.
pub fn register(engine: &mut Engine, reference: &mut Reference) {
    core::register(engine, reference);
    options::register(&mut Api { engine, reference });
    tensor::register(&mut Api { engine, reference });
    nn::register(&mut Api { engine, reference });
    loss::register(&mut Api { engine, reference });
    optim::register(&mut Api { engine, reference });
    dist::register(engine, reference);
    data::register(engine, reference);
    batch::register(&mut Api { engine, reference });
    transform::register(engine, reference);
    checkpoint::register(&mut Api { engine, reference });
    run::register(engine, reference);
    saver::register(engine, reference);
    plot::register(&mut Api { engine, reference });
}
