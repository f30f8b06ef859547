//! What a person sees of a run that goes on: a bar on a terminal, a log line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::progress::Progress;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tracing_subscriber::fmt::MakeWriter;

/// How often a run says how far it is, where there is no terminal.
const SAY_EVERY: Duration = Duration::from_secs(20);

/// How often the bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(150);

fn current() -> &'static Mutex<Option<ProgressBar>> {
    static CURRENT: OnceLock<Mutex<Option<ProgressBar>>> = OnceLock::new();
    CURRENT.get_or_init(Mutex::default)
}

/// Shows a run's progress until it is dropped.
#[derive(Debug)]
pub(crate) struct Shown {
    task: JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl Shown {
    /// Shows `progress`, of something called `what`.
    pub(crate) fn new(what: impl Into<String>, progress: Progress) -> Self {
        let what = what.into();
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            *current().lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
            let drawn = bar.clone();
            let task = tokio::spawn(async move {
                loop {
                    draw(&drawn, &what, &progress);
                    tokio::time::sleep(DRAW_EVERY).await;
                }
            });
            return Self {
                task,
                bar: Some(bar),
            };
        }
        let started = Instant::now();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(SAY_EVERY).await;
                let now = progress.snapshot();
                tracing::info!(
                    what,
                    phase = now.phase,
                    done_bytes = now.done_bytes,
                    total_bytes = now.total_bytes,
                    items = now.items,
                    seconds = started.elapsed().as_secs(),
                    "A run goes on."
                );
            }
        });
        Self { task, bar: None }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = self.bar.take() {
            *current().lock().unwrap_or_else(PoisonError::into_inner) = None;
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, what: &str, progress: &Progress) {
    let now = progress.snapshot();
    let message = format!("{what}: {}", now.phase);
    if now.total_bytes > 0 {
        // The total is an estimate for databases; the bar must not run over.
        bar.set_length(now.total_bytes.max(now.done_bytes));
        bar.set_position(now.done_bytes);
        if let Ok(style) = ProgressStyle::with_template(
            "{spinner} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {elapsed} {wide_msg}",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(message);
    } else {
        bar.set_message(format!("{message} ({})", HumanBytes(now.done_bytes)));
    }
    bar.tick();
}

/// Writes log lines above the bar, where there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let bar = current()
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match bar {
            Some(bar) => bar.suspend(|| std::io::stderr().write_all(buffer))?,
            None => std::io::stderr().write_all(buffer)?,
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        Self
    }
}
