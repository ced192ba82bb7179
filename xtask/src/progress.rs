//! One line that says what is being done and how long it will take.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Shows the steps of a job on standard error.
pub struct Steps {
    bar: Option<(String, ProgressBar)>,
    /// The lines of what is done at the same time.
    lines: Option<MultiProgress>,
}

impl Steps {
    pub fn new() -> Self {
        Self {
            bar: None,
            lines: None,
        }
    }

    /// Shows them in a line among others.
    pub fn among(lines: &MultiProgress) -> Self {
        Self {
            bar: None,
            lines: Some(lines.clone()),
        }
    }

    /// `done` of `total` of the step called `label`.
    pub fn show(&mut self, label: &str, done: usize, total: usize) {
        if self
            .bar
            .as_ref()
            .is_none_or(|(current, _)| current != label)
        {
            self.finish();
            let bar = ProgressBar::new(total as u64);
            let bar = match &self.lines {
                Some(lines) => lines.add(bar),
                None => bar,
            };
            dress(&bar, label, total);
            self.bar = Some((label.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    /// Says more about the step that is shown.
    pub fn note(&mut self, note: &str) {
        if let Some((label, bar)) = &self.bar {
            bar.set_message(format!("{label}: {note}"));
        }
    }

    /// Leaves the last step's line with the time it took.
    pub fn finish(&mut self) {
        if let Some((label, bar)) = self.bar.take() {
            let seconds = bar.elapsed().as_secs_f64();
            bar.finish_and_clear();
            let line = format!("{label}: {seconds:.1} s");
            match &self.lines {
                Some(lines) => lines.suspend(|| eprintln!("{line}")),
                None => eprintln!("{line}"),
            }
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.finish();
    }
}

fn dress(bar: &ProgressBar, label: &str, total: usize) {
    let template = if total > 1 {
        "{msg} [{bar:30}] {pos}/{len}, {eta} left"
    } else {
        "{msg} {spinner} {elapsed}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
}
