//! The page as a whole: sections in order, style and script inside.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::Builder;

use crate::data::{Point, Report};
use crate::error::ReportError;
use crate::markup::Element;
use crate::{coverage, front, layers, points, summary, training, uniform, validation};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// Draws the page of `report`: HTML that needs nothing from anywhere.
///
/// The same report gives the same bytes.
///
/// # Errors
/// What [`Report::validate`] finds wrong.
pub fn render(report: &Report) -> Result<String, ReportError> {
    report.validate()?;
    let points = points::on_chart(report);
    let data = points::embed(report, &points)?;
    let html = Element::new("html")
        .attr("lang", "en")
        .child(head(&report.title))
        .child(body(report, &points, &data));
    Ok(format!("<!DOCTYPE html>\n{}\n", html.render()))
}

/// Draws the page of `report` into the file at `path`, which is replaced whole or not at all.
///
/// # Errors
/// What [`render`] refuses, and files that cannot be written.
pub fn write(report: &Report, path: impl AsRef<Path>) -> Result<(), ReportError> {
    let path = path.as_ref();
    let html = render(report)?;
    replace(path, html.as_bytes()).map_err(|source| ReportError::Write {
        path: path.to_owned(),
        source,
    })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = shareable(&mut Builder::new()).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The rename itself is durable once the folder is on disk, where the system can do that.
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .or(Ok(()))
}

/// A page is made to be read by others: it gets the permissions of any new file, not a secret's.
#[cfg(unix)]
fn shareable<'b>(builder: &'b mut Builder<'static, 'static>) -> &'b mut Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn shareable<'b>(builder: &'b mut Builder<'static, 'static>) -> &'b mut Builder<'static, 'static> {
    builder
}

fn head(title: &str) -> Element {
    let meta = |name: &str, content: &str| {
        Element::new("meta")
            .attr("name", name)
            .attr("content", content)
    };
    Element::new("head")
        .child(Element::new("meta").attr("charset", "utf-8"))
        .child(meta("viewport", "width=device-width, initial-scale=1"))
        .child(meta("color-scheme", "light dark"))
        .child(Element::new("title").text(title))
        .child(Element::new("style").trusted(STYLE))
}

fn body(report: &Report, points: &[(points::Role, &Point)], data: &str) -> Element {
    let data = Element::new("script")
        .attr("type", "application/json")
        .attr("id", "points")
        .trusted(data);
    let main = Element::new("main")
        .child(summary::header(report))
        .child(front::section(report, points))
        .child(chosen(report))
        .child(uniform::section(report))
        .children(training::section(report))
        .child(validation::section(report))
        .child(coverage::section(report));
    Element::new("body")
        .child(main)
        .child(data)
        .child(Element::new("script").trusted(SCRIPT))
}

/// The section on what the chosen sub-network keeps of each layer.
fn chosen(report: &Report) -> Element {
    let section = Element::new("section")
        .attr("id", "layers")
        .attr("aria-labelledby", "layers-heading")
        .child(
            Element::new("h2")
                .attr("id", "layers-heading")
                .text("The chosen sub-network"),
        );
    let Some(point) = &report.chosen else {
        return section.child(Element::new("p").text("The study chose no sub-network."));
    };
    let what = format!("{}: {}.", point.label, points::facts(point));
    let section = section.child(Element::new("p").text(what));
    if report.full_layers.is_empty() {
        return section.child(Element::new("p").text("Its layers were not recorded."));
    }
    section
        .child(layers::legend())
        .child(layers::picture(point, &report.full_layers))
}
