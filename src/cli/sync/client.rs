//! The user's Python, which runs the official clients. It is started with a script of this program and answers each
//! message, a line of JSON, with another.

use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result};
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use std::fmt;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const SCRIPT: &str = include_str!("sync.py");
/// How long the script may take to end by itself after its last answer.
const END: Duration = Duration::from_secs(10);

/// Where a run is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// Weights & Biases.
    Wandb,
    /// MLflow: what MLFLOW_TRACKING_URI names.
    Mlflow,
    /// Trackio.
    Trackio,
    /// TensorBoard's event files.
    Tensorboard,
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            To::Wandb => "wandb",
            To::Mlflow => "mlflow",
            To::Trackio => "trackio",
            To::Tensorboard => "tensorboard",
        })
    }
}

/// The running script.
pub struct Client {
    child: Child,
    /// Closed when it is to end.
    messages: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    python: PathBuf,
}

impl Client {
    /// Starts the script, and checks that the Python environment has the client.
    pub fn start(python: &Path, to: To) -> Result<Self> {
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == ErrorKind::NotFound => bail_hint!(
                "there is no program {}, which is to run the client of {to}", python.display();
                "name the Python of an environment that has it, with --python or NEPA_PYTHON"
            ),
            Err(e) => return Err(e).with_context(|| format!("cannot start {}", python.display())),
        };
        let messages = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut client = Self { child, messages, answers, python: python.into() };
        client.ask("need", json!({ "to": to.to_string() }))?;
        Ok(client)
    }

    /// Sends a message, and waits for the answer.
    pub fn ask(&mut self, what: &str, mut message: Value) -> Result<Map<String, Value>> {
        message["do"] = what.into();
        let mut answer = String::new();
        let Some(messages) = &mut self.messages else { return Err(self.ended()) };
        let sent = writeln!(messages, "{message}").and_then(|()| messages.flush());
        // Where it could not be sent, the script has ended.
        if sent.is_ok() {
            self.answers
                .read_line(&mut answer)
                .with_context(|| format!("cannot read from {}", self.python.display()))?;
        }
        let Ok(Value::Object(mut answer)) = serde_json::from_str(&answer) else { return Err(self.ended()) };
        match (answer.remove("error"), answer.remove("hint")) {
            (None, _) => Ok(answer),
            (Some(error), hint) => {
                let error = Diagnostic::new(error.as_str().unwrap_or_default());
                let hint = hint.as_ref().and_then(Value::as_str);
                Err(hint.map_or(error.clone(), |hint| error.hint(hint)).into())
            }
        }
    }

    /// Why there was no answer.
    fn ended(&mut self) -> crate::error::Error {
        let how = match self.wait() {
            Some(status) => format!("ended unexpectedly ({status})"),
            None => "gave no answer that can be read".into(),
        };
        let hint = "what it wrote is above; expected is Python 3.8 or newer, with the client installed";
        Diagnostic::new(format!("{} {how}", self.python.display())).hint(hint).into()
    }

    /// Ends the script, and waits for it.
    fn wait(&mut self) -> Option<std::process::ExitStatus> {
        self.messages = None;
        let started = Instant::now();
        while started.elapsed() < END {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Ok(status) => return status,
                Err(_) => break,
            }
        }
        None
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.wait().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
