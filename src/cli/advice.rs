//! What to type instead: where a recipe's parameter was given as an option of the command, and where the name of a
//! command of `nepa data` was taken for a path.

use crate::error::nearest;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Message and hint for the arguments of a command line.
pub fn of(error: &clap::Error, arguments: &[String]) -> Option<(String, String)> {
    match arguments {
        // clap takes the first word for the path, and the next one for a command.
        [data, word, _, ..] if data == "data" && error.kind() == ErrorKind::ArgumentConflict => {
            let all = super::Cli::command();
            let commands = all.find_subcommand("data").expect("declared").get_subcommands().map(|c| c.get_name());
            let near = nearest(word, commands)?;
            let hint = format!("did you mean nepa data {near}? A folder of that name is shown by nepa data ./{word}");
            Some((format!("nepa data has no command '{word}'"), hint))
        }
        _ => of_parameters(error, arguments),
    }
}

/// Of `nepa run` or `nepa sweep`, where they look like a recipe's parameters.
fn of_parameters(error: &clap::Error, arguments: &[String]) -> Option<(String, String)> {
    let command = arguments.first().filter(|command| ["run", "sweep"].contains(&command.as_str()))?;
    let Some(ContextValue::String(unexpected)) = error.get(ContextKind::InvalidArg) else { return None };
    let recipe = arguments.iter().find(|a| a.ends_with(".rhai")).map_or("RECIPE", String::as_str);
    let say = |pair: String| {
        let hint = format!("a parameter of the recipe is given as --set {pair}; nepa run {recipe} --help lists them");
        Some((format!("unexpected argument '{unexpected}'"), hint))
    };
    if error.kind() == ErrorKind::ValueValidation && unexpected.starts_with("--set") {
        let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else { return None };
        let pair = match value.strip_prefix('=') {
            Some(value) => format!("KEY={value}"),
            None => format!("{}=VALUE", value.trim_matches('=')),
        };
        let hint = format!("write --set {pair}; nepa run {recipe} --help lists the parameters");
        return Some((format!("--set {value}: expected KEY=VALUE"), hint));
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let position = arguments.iter().position(|a| a == unexpected || a.starts_with(&format!("{unexpected}=")))?;
    // --seed -1
    if let [.., option] = &arguments[..position]
        && option.starts_with("--")
        && option != "--set"
        && unexpected.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    {
        let hint = format!("nepa {command} --help tells what {option} takes");
        return Some((format!("{option} {unexpected}: expected a number that is not negative"), hint));
    }
    if let [.., set, key] = &arguments[..position]
        && set == "--set"
        && !key.contains('=')
    {
        // --set epochs 3, --set lr = 3
        let value =
            if unexpected == "=" { arguments.get(position + 1).map_or("VALUE", String::as_str) } else { unexpected };
        return say(format!("{key}={}", value.trim_start_matches('=')));
    }
    let argument = arguments[position].trim_start_matches('-').to_string();
    let (key, value) = match argument.split_once('=') {
        Some((key, value)) => (key.to_string(), Some(value.to_string())),
        None => (argument, arguments.get(position + 1).filter(|next| !next.starts_with("--")).cloned()),
    };
    let value = value.unwrap_or("VALUE".into());
    let declared = declared(recipe);
    let wanted = key.replace('-', "_");
    let is_declared = declared.contains(&wanted);
    if is_declared || (!key.is_empty() && !is_like_an_option(command, &key)) {
        let near = nearest(&wanted, declared.iter().map(String::as_str)).map(str::to_string);
        let key = if is_declared { wanted } else { near.unwrap_or(wanted) };
        return say(format!("{key}={value}"));
    }
    None
}

/// Names of the parameters in a recipe's own text; none if it cannot be read.
fn declared(recipe: &str) -> Vec<String> {
    let text = std::fs::read_to_string(recipe).unwrap_or_default();
    let calls = text.split("param(").skip(1);
    calls.filter_map(|call| Some(call.trim_start().strip_prefix('"')?.split('"').next()?.to_string())).collect()
}

/// Whether an option of a command was meant: --sett, --devise.
fn is_like_an_option(command: &str, argument: &str) -> bool {
    let all = super::Cli::command();
    let command = all.find_subcommand(command).expect("declared");
    let names: Vec<&str> = command.get_arguments().filter_map(|a| a.get_long()).collect();
    names.contains(&argument) || nearest(argument, names).is_some()
}
