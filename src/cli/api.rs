//! `nepa api`

use super::ApiArgs;
use crate::error::{Context as _, Diagnostic, Result};
use crate::script::Host;
use std::io::Write;

pub fn api(args: &ApiArgs, host: &Host) -> Result<()> {
    if let Some(dir) = &args.definitions {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        host.write_definitions(dir).with_context(|| format!("cannot write definitions to {}", dir.display()))?;
        println!("wrote Rhai definition files to {}", dir.display());
        return Ok(());
    }
    let text = host
        .reference()
        .print(args.name.as_deref())
        .map_err(|e| Diagnostic::new(e).hint("`nepa api` without a name prints everything"))?;
    // Closing a pager early is not an error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
