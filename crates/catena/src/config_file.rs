//! Configuration files of the processes that serve: TOML, each key an option of the command without its dashes.
//!
//! A file is turned into options in front of those given, so that values are judged by the same rules, and no option can
//! lack a key. What must hold: an option given on the command line wins over the environment, that over the file; a key that
//! no option has is refused.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::fault::{Fault, Result};

/// Commands that take a file.
const COMMANDS: [&str; 2] = ["node", "manager"];
/// Options that are no settings.
const NO_SETTINGS: [&str; 3] = ["config", "help", "version"];

/// The command line, with what a file that it names says of options that are not given.
pub(crate) fn expand(given: Vec<OsString>, cli: &Command) -> Result<Vec<OsString>> {
    let name = given.get(1).and_then(|n| n.to_str()).filter(|n| COMMANDS.contains(n));
    let (Some(command), Some(path)) = (name.and_then(|n| cli.find_subcommand(n)), named_file(&given)) else { return Ok(given) };
    let shown = path.display();
    let text =
        std::fs::read_to_string(&path).map_err(|e| Fault::usage(format!("cannot read {shown}: {e}; give another --config")))?;
    let said = options(&text, command, &given).map_err(|e| Fault::usage(format!("{shown}: {e}")))?;
    let mut all = given;
    all.splice(2..2, said.into_iter().map(OsString::from));
    Ok(all)
}

/// The value of `--config`.
fn named_file(given: &[OsString]) -> Option<PathBuf> {
    let mut rest = given.iter();
    while let Some(argument) = rest.next() {
        if argument == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|a| a.strip_prefix("--config=")) {
            return Some(Path::new(path).to_owned());
        }
    }
    None
}

/// What the file says, as options.
fn options(text: &str, command: &Command, given: &[OsString]) -> std::result::Result<Vec<String>, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| e.to_string().trim_end().to_owned())?;
    let settings = || command.get_arguments().filter(|a| a.get_long().is_some_and(|l| !NO_SETTINGS.contains(&l)));
    let mut options = Vec::new();
    for (key, value) in &table {
        let Some(arg) = settings().find(|a| a.get_long() == Some(key)) else {
            let mut known: Vec<_> = settings().filter(|a| !a.is_hide_set()).filter_map(Arg::get_long).collect();
            known.sort_unstable();
            return Err(format!("unknown key `{key}`; there are: {}", known.join(", ")));
        };
        let from_environment = arg.get_env().is_some_and(|name| std::env::var_os(name).is_some());
        if !from_environment && !overridden(arg, command, given) {
            options.extend(option(arg, key, value)?);
        }
    }
    Ok(options)
}

/// Whether the command line has the option, or one that excludes it.
fn overridden(arg: &Arg, command: &Command, given: &[OsString]) -> bool {
    let has = |arg: &Arg| arg.get_long().is_some_and(|long| given.iter().any(|g| is_option(g, long)));
    let exclusive = command.get_groups().filter(|&g| !g.clone().is_multiple() && g.get_args().any(|id| id == arg.get_id()));
    let mut rivals = exclusive.flat_map(|g| g.get_args()).filter_map(|id| command.get_arguments().find(|a| a.get_id() == id));
    has(arg) || rivals.any(has)
}

fn is_option(given: &OsStr, long: &str) -> bool {
    let rest = given.to_str().and_then(|g| g.strip_prefix("--")).and_then(|g| g.strip_prefix(long));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

fn option(arg: &Arg, key: &str, value: &Value) -> std::result::Result<Option<String>, String> {
    let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    let words = match value {
        Value::Boolean(on) if is_flag => return Ok(on.then(|| format!("--{key}"))),
        Value::Array(values) if !is_flag => values.iter().map(text).collect::<Option<Vec<_>>>().map(|words| words.join(",")),
        value if !is_flag => text(value),
        _ => None,
    };
    let wanted = if is_flag { "true or false" } else { "a text, a number, or a list of these" };
    words.map(|words| Some(format!("--{key}={words}"))).ok_or_else(|| format!("`{key}` must be {wanted}"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cmd::Cli;

    fn expanded(file: &str, given: &[&str]) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, file).unwrap();
        let mut all: Vec<OsString> = ["catena", given[0], "--config"].map(OsString::from).to_vec();
        all.push(path.into());
        all.extend(given[1..].iter().map(OsString::from));
        let all = expand(all, &Cli::command())?;
        Cli::try_parse_from(&all).map_err(|e| Fault::usage(e.to_string()))?;
        Ok(all.into_iter().map(|a| a.into_string().unwrap()).collect())
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = "id = 3\ndir = \"/d\"\nmanager = [\"a:1\", \"b:2\"]\ncapacity = \"1GiB\"\n";
        let all = expanded(file, &["node", "--capacity=2GiB", "--id", "4"]).unwrap();
        assert!(all.contains(&"--manager=a:1,b:2".to_owned()) && all.contains(&"--dir=/d".to_owned()), "{all:?}");
        assert!(!all.contains(&"--capacity=1GiB".to_owned()) && !all.contains(&"--id=3".to_owned()), "{all:?}");
        let all = expanded("dir = \"/d\"\n", &["manager", "--etcd", "c:3"]).unwrap();
        assert!(!all.contains(&"--dir=/d".to_owned()), "one excludes the other: {all:?}");
    }

    #[test]
    fn what_no_option_has_is_refused() {
        for (file, says) in [
            ("id = 1\ndir = \"/d\"\nshrads = 2\n", "unknown key `shrads`; there are: advertise"),
            ("id = 1\ndir = \"/d\"\nconfig = \"x\"\n", "unknown key `config`"),
            ("id = 1\ndir = \"/d\"\nport = 1.5\n", "`port` must be a text, a number"),
            ("id = 1\ndir = \"/d\"\nport = \"many\"\n", "invalid value 'many' for '--port"),
            ("id = 1\n", "--dir"),
            ("id 1\n", "x.toml"),
        ] {
            let said = expanded(file, &["node"]).expect_err(file).to_string();
            assert!(said.contains(says), "{file} must say {says}: {said}");
        }
        let gone = expand(["catena", "node", "--config=/nowhere"].map(OsString::from).to_vec(), &Cli::command());
        assert!(gone.unwrap_err().to_string().contains("/nowhere"));
    }

    /// The file that is delivered, and the same with every key that is shown in a comment.
    fn delivered(name: &str, excluded: &[&str]) -> (String, String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name);
        let text = std::fs::read_to_string(path).unwrap();
        let shown = |line: &str| line.strip_prefix("#").filter(|l| !l.starts_with(' ')).unwrap_or(line).to_owned();
        let out = |line: &String| !excluded.iter().any(|key| line.starts_with(&format!("{key} =")));
        let all = text.lines().map(shown).filter(out).collect::<Vec<_>>().join("\n");
        (text, all)
    }

    #[test]
    fn the_delivered_files_hold_every_key() {
        for (command, file, excluded) in [
            ("node", "catena-node.toml", &[][..]),
            ("manager", "catena-manager.toml", &["dir"]),
            ("manager", "catena-manager.toml", &["etcd", "etcd-prefix", "term"]),
        ] {
            let (text, all) = delivered(file, excluded);
            expanded(&text, &[command]).unwrap();
            expanded(&all, &[command]).unwrap();
            let table: Table = all.parse().unwrap();
            let cli = Cli::command();
            let options = cli.find_subcommand(command).unwrap().get_arguments().filter(|a| !a.is_hide_set());
            for long in options.filter_map(Arg::get_long).filter(|l| !NO_SETTINGS.contains(l) && !excluded.contains(l)) {
                assert!(table.contains_key(long), "{file} does not explain `{long}`");
            }
        }
    }
}
