//! nepa: NEPA pretraining, fine-tuning and evaluation, composed in scripts.
//!
//! Data flows one way: [`data`] → [`nn`] → [`loss`] → [`optim`] → [`run`] and [`checkpoint`];
//! [`script`] registers them all with the Rhai engine, and is the only part that knows it.

#![warn(missing_docs)]
// Where nobody reads, they panic; `output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]
// Shapes are written [B, N, D], which rustdoc takes for links.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::private_intra_doc_links)]

pub mod cache;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod device;
pub mod differences;
pub mod dist;
pub mod error;
pub mod features_file;
pub mod ffi;
pub mod files;
pub mod loss;
pub mod memory;
pub mod nn;
pub mod optim;
pub mod options;
pub mod output;
pub mod pickle;
pub mod plot;
pub mod positions;
pub mod provenance;
pub mod random;
pub mod run;
pub mod script;
pub mod table_file;
pub mod tensor;
pub mod text;
pub mod types;
pub mod untrusted;
