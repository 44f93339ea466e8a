//! What a command prints: results to stdout, everything else to stderr, colour only for people.
//!
//! A reader that goes away (`catena ls | head`) ends the process quietly, as it does for other tools.

use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::fault::{Doing, Fault, Result};

/// Prints one line to stdout.
macro_rules! say {
    () => { $crate::output::line(format_args!("")) };
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}
pub(crate) use say;

/// One line to stdout. Use [`say!`].
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        stdout_failed(&e);
    }
}

/// Ends the process: nobody can be told on stdout any more.
pub(crate) fn stdout_failed(error: &std::io::Error) -> ! {
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("catena: cannot write to stdout: {error}");
    std::process::exit(1);
}

/// One line to stderr, for what is not a result.
pub(crate) fn note(text: impl fmt::Display) {
    // Nobody is left to be told when stderr is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The line a failed command ends with.
pub(crate) fn complain(fault: &Fault) {
    note(format_args!("catena: {fault}"));
}

/// One value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).doing("write JSON")?;
    say!("{text}");
    Ok(())
}

/// Whether stdout is read by a person who sees colours.
pub(crate) fn colours() -> bool {
    static COLOURS: OnceLock<bool> = OnceLock::new();
    *COLOURS.get_or_init(|| std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
}

fn paint(code: &str, text: impl fmt::Display) -> String {
    if colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// For headings.
pub(crate) fn bold(text: impl fmt::Display) -> String {
    paint("1", text)
}
/// For what is secondary.
pub(crate) fn dim(text: impl fmt::Display) -> String {
    paint("2", text)
}
/// For what is as it should be.
pub(crate) fn good(text: impl fmt::Display) -> String {
    paint("32", text)
}
/// For what needs a look.
pub(crate) fn odd(text: impl fmt::Display) -> String {
    paint("33", text)
}
/// For what is broken.
pub(crate) fn bad(text: impl fmt::Display) -> String {
    paint("31", text)
}

/// A table without lines; `right` columns are numbers.
pub(crate) fn table(head: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|h| h.to_string()));
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// How a cell looks to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Needs a look.
    Odd,
    /// Broken.
    Bad,
}

/// A coloured cell: its width is counted without the colour.
pub(crate) fn cell(text: impl fmt::Display, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match (colours(), tone) {
        (false, _) => cell,
        (true, Tone::Good) => cell.fg(Color::Green),
        (true, Tone::Odd) => cell.fg(Color::Yellow),
        (true, Tone::Bad) => cell.fg(Color::Red),
    }
}

/// Prints a table, its header dimmed, each line behind `indent`.
pub(crate) fn print_table(table: &Table, indent: &str) {
    for (n, row) in table.to_string().lines().enumerate() {
        let row = row.trim_end();
        let row = row.strip_prefix(' ').unwrap_or(row);
        match n {
            0 => say!("{indent}{}", dim(row)),
            _ => say!("{indent}{row}"),
        }
    }
}

/// A bar on stderr if a person watches; `total` of 0 means unknown.
pub(crate) fn progress(total: u64, what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
    }
    let template = match total {
        0 => "{msg} {bytes} {binary_bytes_per_sec}",
        _ => "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are well-formed").progress_chars("=> ");
    let bar = ProgressBar::new(total).with_style(style);
    bar.set_message(what.to_owned());
    bar
}
