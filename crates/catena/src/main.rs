//! The `catena` binary: a manager, a node, a whole cluster on one machine, and the tools to use and judge it.
//!
//! Every command is one file of [`cmd`]. All of them print results to stdout, everything else to stderr, end with an
//! exit code that tells what happened ([`fault`]), and say in one line what went wrong and what to do next.

mod bench;
mod cmd;
mod config_file;
mod cpu;
mod demo;
mod explain;
mod fault;
mod health;
mod http;
mod output;
mod processes;
mod replicas;
mod units;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let given = config_file::expand(std::env::args_os().collect(), &cmd::Cli::command());
    match given.and_then(|given| cmd::Cli::parse_from(given).run()) {
        Ok(code) => code,
        Err(fault) => {
            output::complain(&fault);
            ExitCode::from(fault.code)
        }
    }
}
