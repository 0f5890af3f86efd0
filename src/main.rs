//! The binary: reads `.env`, parses the command line and runs one command.

use std::process::ExitCode;

use clap::Parser;
use gleaner::commands::Cli;

/// The learner allocates and frees large buffers every step, which the system's allocator gives back and asks for again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before any thread exists, since it changes the environment. A missing file is the usual case.
    if let Err(error) = dotenvy::dotenv()
        && !error.not_found()
    {
        eprintln!("gleaner: .env can't be read: {error}");
        return ExitCode::from(2);
    }
    gleaner::commands::run(Cli::parse())
}
