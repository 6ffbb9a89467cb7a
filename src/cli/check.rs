//! `nepa check`

use super::{CheckArgs, FAILED};
use crate::output::{err, out, to_stderr};
use crate::script::Host;

pub fn check(args: &CheckArgs, host: &Host) -> u8 {
    let checked = host.compile(&args.recipe).and_then(|ast| host.check(&ast, &args.recipe));
    let checked = match checked {
        Ok(checked) => checked,
        Err(report) => {
            to_stderr(&report.render(&host.sources));
            return FAILED;
        }
    };
    for warning in &checked.warnings {
        to_stderr(&host.render_warning(warning));
    }
    for problem in &checked.problems {
        to_stderr(&host.render_problem(problem));
    }
    if !checked.problems.is_empty() {
        let n = checked.problems.len();
        err!("{}: {n} problem{}", args.recipe.display(), if n == 1 { "" } else { "s" });
        return FAILED;
    }
    out!(
        "{}: ok ({} scripts, {} calls, {} parameters)",
        args.recipe.display(),
        checked.files.len(),
        checked.calls,
        checked.params.len()
    );
    0
}
