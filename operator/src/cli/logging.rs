//! Log lines on standard error: text on a terminal, JSON elsewhere. Results go to standard output.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::arguments::{GlobalArgs, LogFormat};

/// Starts logging. `HOLDFAST_LOG` takes a filter in the syntax of `tracing`.
pub(super) fn start(global: &GlobalArgs) {
    let filter = EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| {
        EnvFilter::new(match global.verbose {
            0 => "warn,holdfast=info,holdfast_engine=info,rustic_core=error",
            1 => "info,holdfast=debug,holdfast_engine=debug",
            _ => "debug,holdfast=trace,holdfast_engine=trace",
        })
    });
    let terminal = std::io::stderr().is_terminal();
    let json = match global.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(super::progress::LogWriter);
    // A second start (tests in one process) keeps the first.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(terminal).with_target(false).try_init()
    };
}
