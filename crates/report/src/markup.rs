//! HTML and SVG elements that are escaped by construction.

use std::borrow::Cow;
use std::fmt::{Display, Write};

/// Elements of HTML that have no end tag.
const VOID: [&str; 2] = ["input", "meta"];

/// Elements of SVG that are mostly empty and then close themselves.
const SHAPES: [&str; 4] = ["circle", "line", "path", "rect"];

/// An element that is being put together. Text and attribute values are always escaped;
/// only [`Element::trusted`] takes markup as it is.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    name: &'static str,
    attributes: String,
    content: String,
}

impl Element {
    /// An empty element.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            attributes: String::new(),
            content: String::new(),
        }
    }

    /// Adds an attribute. `name` is ours; `value` may be anything.
    pub(crate) fn attr(mut self, name: &'static str, value: impl Display) -> Self {
        let value = value.to_string();
        self.attributes
            .push_str(&format!(" {name}=\"{}\"", escape(&value)));
        self
    }

    /// Adds a class attribute.
    pub(crate) fn class(self, classes: &str) -> Self {
        self.attr("class", classes)
    }

    /// Appends text.
    pub(crate) fn text(mut self, text: impl AsRef<str>) -> Self {
        self.content.push_str(&escape(text.as_ref()));
        self
    }

    /// Appends an element.
    pub(crate) fn child(mut self, child: Element) -> Self {
        child.write_to(&mut self.content);
        self
    }

    /// Appends elements in order.
    pub(crate) fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        for child in children {
            child.write_to(&mut self.content);
        }
        self
    }

    /// Appends markup, style or script as it is. Never for anything that comes from a report.
    pub(crate) fn trusted(mut self, markup: &str) -> Self {
        self.content.push_str(markup);
        self
    }

    /// The markup.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.write_to(&mut out);
        out
    }

    fn write_to(&self, out: &mut String) {
        let Self {
            name,
            attributes,
            content,
        } = self;
        // Writing to a String cannot fail.
        let _ = if VOID.contains(name) {
            write!(out, "<{name}{attributes}>")
        } else if SHAPES.contains(name) && content.is_empty() {
            write!(out, "<{name}{attributes}/>")
        } else {
            write!(out, "<{name}{attributes}>{content}</{name}>")
        };
    }
}

/// `text` with the characters that mean something in HTML replaced.
///
/// Control characters, which HTML forbids, become U+FFFD.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !matches!(c, '&' | '<' | '>' | '"' | '\'') && !is_forbidden(c);
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if is_forbidden(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn is_forbidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// JSON that can stand inside a script element: nothing in it can end the element, open a
/// comment, or break a line of JavaScript. The characters concerned occur in strings only.
pub(crate) fn json_for_script(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_break_out() {
        let hostile = "\"'><script>alert(1)</script>&\u{0}";
        let html = Element::new("p")
            .attr("title", hostile)
            .text(hostile)
            .render();
        let safe = "&quot;&#39;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;\u{fffd}";
        assert_eq!(html, format!("<p title=\"{safe}\">{safe}</p>"));
    }

    #[test]
    fn json_survives_the_script_element() {
        let name = "</script><!-- \u{2028}&";
        let json = serde_json::to_string(name).unwrap();
        let safe = json_for_script(&json);
        assert!(!safe.contains(['<', '>', '&', '\u{2028}']));
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), name);
    }

    #[test]
    fn void_elements_and_shapes_have_no_end_tag() {
        assert_eq!(
            Element::new("line").attr("x1", 1).render(),
            "<line x1=\"1\"/>"
        );
        assert_eq!(
            Element::new("input").attr("type", "search").render(),
            "<input type=\"search\">"
        );
    }
}
