//! The program as its users run it: one binary, one module a subject.
//!
//! All tests are threads of one process, as many at once as there are cores. Nearly all start the real `nepa` in a
//! folder of their own, with the environment of that command alone. Those that call the library themselves keep to
//! what belongs to a thread (device, generator, engine); one that needs the process for itself says so by
//! [`common::alone`].

mod common;

mod architecture;
mod averages;
mod bad_files;
mod bad_numbers;
mod benches;
mod blocks;
mod channels;
mod checkpoint;
mod cli;
mod continue_pretraining;
mod cost;
mod cuda_recipes;
mod data;
mod data_command;
mod data_pack;
mod decode;
mod dist_evaluate;
mod dist_examples;
mod dist_failures;
mod dist_launchers;
mod dist_rank0;
mod dist_training;
mod docs;
mod doctor;
mod embed;
mod embeddings;
mod errors;
mod evaluate;
#[cfg(target_os = "linux")]
mod export;
mod faults;
mod features;
mod finetune;
mod functions;
mod fused;
mod fuzzing;
#[cfg(target_os = "linux")]
mod gpu_check;
mod habits;
mod held_out;
mod imagenet;
mod import;
mod kept;
mod language;
mod left_out;
mod loader;
mod memory;
mod models;
mod odd_tensors;
mod online;
mod optimizers;
mod output;
mod paper_examples;
mod parity;
mod pickle;
mod plot;
mod precision;
mod pretrain_recipes;
mod pretraining;
mod python;
mod python_export;
mod python_package;
mod recipes;
mod recipes_command;
mod recompute;
mod reference;
mod reference_scripts;
mod report;
mod resume;
mod resume_changes;
mod resume_state;
mod run_from_rust;
mod schedules;
mod script_modules;
mod security;
mod signals;
#[cfg(target_os = "linux")]
mod simulated_cuda;
#[cfg(target_os = "linux")]
mod simulated_loss;
#[cfg(target_os = "linux")]
mod simulated_nccl;
mod splits;
mod sweep;
mod sync;
mod sync_clients;
mod system_metrics;
mod tensorboard;
mod torch;
mod torch_edges;
mod transforms;
mod visualize;
mod watch;
mod wheel;
