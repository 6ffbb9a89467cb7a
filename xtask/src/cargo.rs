//! The checkout, and the cargo that builds it.

use crate::host;
use anyhow::{Context, Result};
use cargo_metadata::Message;
use std::{
    env,
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// The checkout: found upward from the current folder, because that is where cargo found the alias; the one xtask was
/// built in otherwise.
pub fn project() -> PathBuf {
    let is_project = |dir: &&Path| dir.join("xtask/Cargo.toml").is_file() && dir.join(".cargo/config.toml").is_file();
    env::current_dir().ok().and_then(|dir| dir.ancestors().find(is_project).map(Path::to_path_buf)).unwrap_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the project").to_path_buf(),
    )
}

/// The cargo that runs us, in the project's root.
pub fn command(project: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(project);
    host::clean_env(&mut command, project);
    command
}

/// Builds nepa in release mode and returns its path, or the code with which cargo failed (after cargo's own message).
pub fn build_nepa(project: &Path) -> Result<Result<PathBuf, ExitCode>> {
    // Only cargo knows the target folder for sure; its JSON messages name the binary, diagnostics go to stderr as
    // usual.
    let mut child = command(project)
        .args(["build", "--release", "--bin", "nepa", "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut binary = None;
    for message in Message::parse_stream(BufReader::new(child.stdout.take().expect("piped"))) {
        if let Message::CompilerArtifact(artifact) = message? {
            binary = artifact.executable.or(binary);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        return Ok(Err(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))));
    }
    Ok(Ok(binary.context("cargo built nepa but did not say where it is")?.into()))
}
