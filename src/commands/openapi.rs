//! `gleaner openapi`: the OpenAPI document on standard output.

use std::io::Write;
use std::process::ExitCode;

/// Prints the document as indented JSON.
pub fn run() -> anyhow::Result<ExitCode> {
    let document = crate::http::openapi().to_pretty_json()?;
    writeln!(std::io::stdout(), "{document}")?;
    Ok(ExitCode::SUCCESS)
}
