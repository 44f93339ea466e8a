//! The `catena` binary: a manager, a node, a whole cluster on one machine, and the tools to use and judge it.
//!
//! Every command is one file of [`cmd`]. All of them print results to stdout, everything else to stderr, end with an
//! exit code that tells what happened ([`fault`]), and say in one line what went wrong and what to do next.

mod bench;
mod cmd;
mod cpu;
mod demo;
mod explain;
mod fault;
mod health;
mod output;
mod processes;
mod replicas;
mod units;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cmd::Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(fault) => {
            output::complain(&fault);
            ExitCode::from(fault.code)
        }
    }
}
