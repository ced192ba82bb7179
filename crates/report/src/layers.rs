//! What is left of each layer: a column a layer, attention above, MLP below.
//!
//! The height of a bar is the share of KV groups, or of the MLP's width, that is kept. Its
//! breadth is the share of query heads kept in each group. The page's script draws other points
//! by changing the bars of a copy, so the geometry is decided here alone.

use crate::data::{AttentionShape, LayerShape, Point};
use crate::format;
use crate::markup::Element;
use crate::svg::{Size, drawing, path, px, rect, text};

/// The picture that stands on its own, on a wide page.
const WIDE: Size = Size {
    width: 920.0,
    height: 250.0,
};
/// The same on a phone.
const NARROW: Size = Size {
    width: 340.0,
    height: 260.0,
};
/// The picture inside a tooltip.
const MINI: Size = Size {
    width: 200.0,
    height: 58.0,
};

/// More groups than this are drawn as one bar, not as cells.
const MOST_CELLS: usize = 12;

/// The two kinds of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Attention,
    Mlp,
}

impl Block {
    const ALL: [Self; 2] = [Self::Attention, Self::Mlp];

    /// Name in class names and for the script.
    fn key(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }

    /// What the block of one layer holds: KV groups or width.
    fn units(self, layer: &LayerShape) -> usize {
        match self {
            Self::Attention => layer.attention.as_ref().map_or(0, |a| a.kv_heads),
            Self::Mlp => layer.mlp.as_ref().map_or(0, |m| m.intermediate_size),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Attention => "Attention: KV groups kept",
            Self::Mlp => "MLP: width kept",
        }
    }
}

/// Share of query heads kept in each group, 0 to 1.
fn breadth(kept: &LayerShape, full: &LayerShape) -> f64 {
    let per_group = |a: &AttentionShape| a.heads as f64 / a.kv_heads.max(1) as f64;
    match (&kept.attention, &full.attention) {
        (Some(kept), Some(full)) if full.heads > 0 => {
            (per_group(kept) / per_group(full)).clamp(0.0, 1.0)
        }
        _ => 1.0,
    }
}

/// Units kept in all layers, units of the full model, and blocks removed.
fn totals(block: Block, kept: &[LayerShape], full: &[LayerShape]) -> (usize, usize, usize) {
    let sum = |layers: &[LayerShape]| {
        layers
            .iter()
            .fold(0usize, |sum, layer| sum.saturating_add(block.units(layer)))
    };
    let is_removed =
        |(kept, full): &(&LayerShape, &LayerShape)| block.units(kept) == 0 && block.units(full) > 0;
    (
        sum(kept),
        sum(full),
        kept.iter().zip(full).filter(is_removed).count(),
    )
}

/// `71 of 90, 2 blocks removed`.
fn total_text(block: Block, kept: &[LayerShape], full: &[LayerShape]) -> String {
    let (kept, full, removed) = totals(block, kept, full);
    let share = format::percent(100.0 * kept as f64 / full.max(1) as f64);
    let number = |n: usize| format::fixed(n as f64, 0);
    let blocks = format::plural(removed, "block", "blocks");
    format!(
        "{} of {} ({share}), {blocks} removed",
        number(kept),
        number(full)
    )
}

/// What is left of `point`, in one sentence.
pub(crate) fn sentence(point: &Point, full: &[LayerShape]) -> String {
    let part = |block: Block| {
        format!(
            "{} {}",
            block.title(),
            total_text(block, &point.layers, full)
        )
    };
    format!("{}. {}.", part(Block::Attention), part(Block::Mlp))
}

/// The picture of `point`, for wide and for narrow pages.
pub(crate) fn picture(point: &Point, full: &[LayerShape]) -> Element {
    let draw = |size, class| {
        Element::new("div").class(class).child(
            large(&point.layers, full, size)
                .attr("role", "img")
                .attr("aria-label", sentence(point, full)),
        )
    };
    Element::new("div")
        .class("picture")
        .child(draw(WIDE, "wide"))
        .child(draw(NARROW, "narrow"))
}

/// The small picture that the script fills for its tooltip.
pub(crate) fn miniature(full: &[LayerShape]) -> Element {
    let half = (MINI.height - 4.0) / 2.0;
    let rows = Block::ALL.map(|block| {
        let top = if block == Block::Attention {
            0.0
        } else {
            half + 4.0
        };
        bars(
            block,
            full,
            full,
            Row {
                left: 0.0,
                right: MINI.width,
                top,
                bottom: top + half,
            },
        )
    });
    drawing(MINI)
        .attr("aria-hidden", "true")
        .class("mini")
        .children(rows)
}

/// Where the bars of one kind of block go.
#[derive(Debug, Clone, Copy)]
struct Row {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

fn large(kept: &[LayerShape], full: &[LayerShape], size: Size) -> Element {
    let (left, right) = (1.0, size.width - 1.0);
    let band = (size.height - 18.0) / 2.0;
    let is_narrow = size.width < WIDE.width / 2.0;
    let rows = Block::ALL.into_iter().enumerate().flat_map(|(i, block)| {
        let first_line = i as f64 * band + 14.0;
        let last_line = first_line + if is_narrow { 16.0 } else { 0.0 };
        let (class, x) = if is_narrow {
            ("tick", left)
        } else {
            ("tick end", right)
        };
        let row = Row {
            left,
            right,
            top: last_line + 7.0,
            bottom: (i + 1) as f64 * band - 6.0,
        };
        let total = total_text(block, kept, full);
        [
            text("name", left, first_line, block.title()),
            text(class, x, last_line, &total).attr("data-total", block.key()),
            bars(block, kept, full, row),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let numbers = layer_numbers(full.len(), left, right, size.height - 3.0);
    drawing(size).children(rows).children(numbers)
}

/// Numbers of layers below the columns, as many as fit.
fn layer_numbers(count: usize, left: f64, right: f64, y: f64) -> Vec<Element> {
    let column = (right - left) / count.max(1) as f64;
    let every = [1, 2, 5, 10, 20, 50, 100]
        .into_iter()
        .find(|n| *n as f64 * column >= 22.0);
    let at = |i: usize| left + (i as f64 + 0.5) * column;
    (0..count)
        .step_by(every.unwrap_or(count.max(1)))
        .map(|i| text("tick middle", at(i), y, &i.to_string()))
        .collect()
}

fn bars(block: Block, kept: &[LayerShape], full: &[LayerShape], row: Row) -> Element {
    let column = (row.right - row.left) / full.len().max(1) as f64;
    let largest = full
        .iter()
        .map(|layer| block.units(layer))
        .max()
        .unwrap_or(0)
        .max(1);
    let columns = kept
        .iter()
        .zip(full)
        .enumerate()
        .filter(|(_, (_, full))| block.units(full) > 0);
    Element::new("g")
        .class(block.key())
        .children(columns.map(|(i, (kept, full))| {
            let units = block.units(full);
            let height = (row.bottom - row.top) * units as f64 / largest as f64;
            let slot = Slot {
                x: row.left + (i as f64 + 0.09) * column,
                y: row.bottom - height,
                width: 0.82 * column,
                height,
            };
            bar(block, i, kept, full, slot)
        }))
}

/// The room of one full block.
#[derive(Debug, Clone, Copy)]
struct Slot {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

fn bar(block: Block, layer: usize, kept: &LayerShape, full: &LayerShape, slot: Slot) -> Element {
    let (kept_units, units) = (block.units(kept), block.units(full));
    let height = slot.height * kept_units as f64 / units.max(1) as f64;
    let width = slot.width
        * if block == Block::Attention {
            breadth(kept, full)
        } else {
            1.0
        };
    let x = slot.x + (slot.width - width) / 2.0;
    let is_cells = block == Block::Attention && units <= MOST_CELLS;
    let dividers: String = (1..if is_cells { units } else { 1 })
        .map(|i| slot.y + slot.height * i as f64 / units as f64)
        .map(|y| format!("M{} {}h{}", px(slot.x), px(y), px(slot.width)))
        .collect();
    let dividers = (!dividers.is_empty()).then(|| path("divider", &dividers));
    Element::new("g")
        .class(if kept_units == 0 {
            "bar removed"
        } else {
            "bar"
        })
        .attr("data-layer", layer)
        .child(Element::new("title").text(bar_title(block, layer, kept, full)))
        .child(rect("full", slot.x, slot.y, slot.width, slot.height))
        .child(rect(
            "kept",
            x,
            slot.y + slot.height - height,
            width,
            height,
        ))
        .children(dividers)
        .child(cross(slot))
}

/// Marks a block that was removed; hidden unless it was.
fn cross(slot: Slot) -> Element {
    let reach = (slot.width.min(slot.height) / 2.0 - 1.0).clamp(1.0, 6.0);
    let (x, y) = (slot.x + slot.width / 2.0, slot.y + slot.height / 2.0);
    let [left, right, top, bottom] = [x - reach, x + reach, y - reach, y + reach].map(px);
    path(
        "cross",
        &format!("M{left} {top}L{right} {bottom}M{right} {top}L{left} {bottom}"),
    )
}

fn bar_title(block: Block, layer: usize, kept: &LayerShape, full: &LayerShape) -> String {
    let what = match (block, &kept.attention, &kept.mlp) {
        (Block::Attention, Some(kept), _) => {
            let full_heads = full.attention.as_ref().map_or(0, |a| a.heads);
            let groups = block.units(full);
            format!(
                "{} of {groups} KV groups, {} of {full_heads} heads",
                kept.kv_heads, kept.heads
            )
        }
        (Block::Mlp, _, Some(kept)) => {
            format!("width {} of {}", kept.intermediate_size, block.units(full))
        }
        _ => format!("{} removed", block.key()),
    };
    format!("Layer {layer}: {what}")
}

/// What the signs in the pictures mean.
pub(crate) fn legend() -> Element {
    let sample = |class: &str, kept: f64| {
        let slot = Slot {
            x: 1.0,
            y: 1.0,
            width: 12.0,
            height: 14.0,
        };
        let bar = Element::new("g")
            .class(class)
            .child(rect("full", slot.x, slot.y, slot.width, slot.height))
            .child(rect(
                "kept",
                slot.x,
                15.0 - 14.0 * kept,
                slot.width,
                14.0 * kept,
            ))
            .child(cross(slot));
        let block = Element::new("g").class("attention").child(bar);
        drawing(Size {
            width: 14.0,
            height: 16.0,
        })
        .attr("aria-hidden", "true")
        .child(block)
    };
    let entry = |sample: Element, text: &str| Element::new("li").child(sample).text(text);
    Element::new("ul")
        .class("legend")
        .child(entry(sample("bar", 0.6), "kept, of the full block"))
        .child(entry(sample("bar removed", 0.0), "whole block removed"))
        .child(Element::new("li").text("a narrower bar keeps fewer query heads in each group"))
}
