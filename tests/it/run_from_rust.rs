//! A run as a Rust program drives it, without a script: started, logged, saved, resumed, finished.

use nepa::error::Result;
use nepa::nn::{Context, Linear, LinearOptions, Module, named_parameters};
use nepa::optim::{AdamwOptions, Optimizer};
use nepa::random;
use nepa::run::signals::Interrupt;
use nepa::run::{
    CheckpointOptions, CheckpointState, Checkpoints, Moment, RunFile, RunInfo, RunState, Script, Session, Settings,
    TrainingState,
};
use serde_json::{Map, Value, json};
use std::path::Path;
use tch::Tensor;

fn object(value: Value) -> Map<String, Value> {
    serde_json::from_value(value).unwrap()
}

fn moment(step: i64) -> Moment {
    Moment { step, state: object(json!({ "step": step })) }
}

struct Trained {
    weight: Tensor,
    /// The step that the loop was resumed from, or 0.
    first: i64,
}

/// Trains a layer for `steps` steps, from where the run in `dir` stands.
fn train(dir: &Path, steps: i64, lr: f64, end: RunState) -> Result<Trained> {
    let code = "in Rust".to_string();
    let scripts = vec![Script { name: "line.rhai".into(), text: code.clone(), code, is_embedded: false }];
    let info = RunInfo { recipe: "line.rhai".into(), scripts, seed: 3, ..RunInfo::default() };
    random::set_seed(info.seed);
    let mut session = Session::start(info, Some(dir.into()), false, Interrupt::default())?;
    session.set_param("lr", lr.into());
    let model = Linear::new(4, 2, &LinearOptions::default())?;
    let mut optimizer = Optimizer::new(&model, &AdamwOptions::default())?;
    let lrs = vec![lr; optimizer.groups().len()];

    let mut checkpoints = Checkpoints::new(&mut session, "fit", &CheckpointOptions { every: 2, ..Default::default() })?;
    let settings = Settings::new(object(json!({ "lr": lr, "steps": steps })), &["steps".to_string()])?;
    let mut training = TrainingState { model: &model, ema: None, optimizer: Some(&mut optimizer) };
    let saved = checkpoints.resume(&mut session, &mut training, settings)?;
    let first = saved.map_or(0, |saved| saved["step"].as_i64().unwrap());
    for step in first + 1..=steps {
        let x = random::next_key().normal(&[8, 4])?;
        let loss = model.forward(&x, &Context::default())?.square().mean(None);
        loss.backward();
        training.optimizer.as_mut().unwrap().step(&lrs, None)?;
        session.log(&object(json!({ "step": step, "loss": loss.double_value(&[]) })))?;
        if checkpoints.is_due(&mut session, step)? {
            checkpoints.save(&mut session, &training, moment(step))?;
        }
    }
    checkpoints.finish(&mut session, &training, &moment(steps))?;
    drop(checkpoints);
    session.finish(end, None)?;
    let (_, weight) = &named_parameters(&model)[0];
    Ok(Trained { weight: weight.detach(), first })
}

#[test]
fn a_resumed_run_gives_what_an_uninterrupted_one_gives() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let expected = train(&whole, 5, 0.1, RunState::Finished).unwrap();
    train(&parts, 3, 0.1, RunState::Interrupted).unwrap();
    assert_eq!(RunFile::read(&parts).unwrap().state, RunState::Interrupted);
    let found = train(&parts, 5, 0.1, RunState::Finished).unwrap();
    assert_eq!(found.first, 3);
    assert!(found.weight.equal(&expected.weight));

    let run = RunFile::read(&parts).unwrap();
    assert_eq!((run.state, run.resumed.len(), &run.params["lr"]), (RunState::Finished, 1, &json!(0.1)));
    let last = CheckpointState::read(&parts.join("checkpoints/fit/step-00000005")).unwrap();
    assert_eq!((last.step, last.rng.seed, &last.changeable["steps"]), (5, 3, &json!(5)));
    let metrics = |dir: &Path| std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics(&whole), metrics(&parts));
}

#[test]
fn a_setting_that_may_not_change_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), 2, 0.1, RunState::Interrupted).unwrap();
    let error = train(folder.path(), 4, 0.2, RunState::Finished).err().unwrap().to_string();
    assert!(error.contains("these settings have changed:\n  lr: was 0.1, now 0.2"), "{error}");
    // Nothing was changed by the attempt.
    assert_eq!(RunFile::read(folder.path()).unwrap().params["lr"], 0.1);
    train(folder.path(), 4, 0.1, RunState::Finished).unwrap();
}
