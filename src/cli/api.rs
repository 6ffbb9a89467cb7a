//! `nepa api`

use super::ApiArgs;
use crate::error::{Context as _, Diagnostic, Result};
use crate::files;
use crate::output::{out, to_stdout};
use crate::script::Host;
use crate::script::search::search;

pub fn api(args: &ApiArgs, host: &Host) -> Result<()> {
    if let Some(dir) = &args.definitions {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        for (name, text) in host.definitions() {
            files::write_atomic(&dir.join(name), text.as_bytes())?;
        }
        out!("wrote Rhai definition files to {}", dir.display());
        return Ok(());
    }
    if let Some(text) = &args.search {
        let hint = "`nepa api` prints everything; docs/from-pytorch.md has a table of PyTorch's names";
        let found = search(host.reference(), text).map_err(|e| Diagnostic::new(e).hint(hint))?;
        to_stdout(&found);
        return Ok(());
    }
    let text = host
        .reference()
        .print(args.name.as_deref())
        .map_err(|e| Diagnostic::new(e).hint("`nepa api` without a name prints everything"))?;
    to_stdout(&text);
    Ok(())
}
