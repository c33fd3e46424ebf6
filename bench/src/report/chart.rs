//! Charts as SVG within the page, whose colours they take.

use super::{figures::number, html::escaped, scale::Scale};
use std::fmt::{self, Write};

pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) x_unit: &'static str,
    pub(super) y_unit: &'static str,
    pub(super) lines: Vec<Line>,
    pub(super) marks: Vec<Mark>,
}

pub(super) struct Line {
    /// Its name gives it its colour.
    pub(super) target: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Something at a place of the x axis.
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) text: String,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 264.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 34.0;

impl Chart {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        let title = escaped(&self.title);
        write!(
            out,
            "<figure><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{title}'>"
        )?;
        self.axes(out)?;
        self.write_marks(out)?;
        for line in &self.lines {
            self.line(out, line)?;
        }
        writeln!(out, "</svg><figcaption>{title}</figcaption></figure>")
    }

    fn axes(&self, out: &mut String) -> fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, name) in &self.y.ticks {
            let y = self.y(*value);
            write!(out, "<path class='grid' d='M{LEFT} {y:.1}H{right}'/>")?;
            let (x, y) = (LEFT - 6.0, y + 3.5);
            write!(out, "<text class='tick end' x='{x}' y='{y:.1}'>{name}</text>")?;
        }
        for (value, name) in &self.x.ticks {
            let x = self.x(*value);
            write!(out, "<path class='grid' d='M{x:.1} {TOP}V{bottom}'/>")?;
            let y = bottom + 14.0;
            write!(out, "<text class='tick mid' x='{x:.1}' y='{y}'>{name}</text>")?;
        }
        let (middle, y) = ((LEFT + right) / 2.0, HEIGHT - 4.0);
        write!(out, "<text class='unit mid' x='{middle}' y='{y}'>{}</text>", self.x_unit)?;
        write!(out, "<text class='unit' x='6' y='14'>{}</text>", self.y_unit)
    }

    fn write_marks(&self, out: &mut String) -> fmt::Result {
        let bottom = HEIGHT - BOTTOM;
        for (n, Mark { at, text }) in self.marks.iter().enumerate() {
            let (x, text) = (self.x(*at), escaped(text));
            write!(out, "<path class='mark' d='M{x:.1} {TOP}V{bottom}'/>")?;
            // Neighbours are written at different heights.
            let y = 14.0 + 11.0 * (n % 3) as f64;
            let (side, x) = if x > WIDTH * 0.75 { ("end", x - 3.0) } else { ("", x + 3.0) };
            write!(out, "<text class='marked {side}' x='{x:.1}' y='{y}'>{text}</text>")?;
        }
        Ok(())
    }

    fn line(&self, out: &mut String, line: &Line) -> fmt::Result {
        let class = escaped(&line.target);
        let mut path = String::new();
        for (n, &(x, y)) in line.points.iter().enumerate() {
            let step = if n == 0 { 'M' } else { 'L' };
            write!(path, "{step}{:.1} {:.1}", self.x(x), self.y(y))?;
        }
        write!(out, "<path class='line {class}' d='{path}'><title>{class}</title></path>")?;
        for &(x, y) in &line.points {
            let (cx, cy, value) = (self.x(x), self.y(y), number(y));
            let unit = self.y_unit;
            write!(out, "<circle class='dot {class}' cx='{cx:.1}' cy='{cy:.1}' r='2.2'>")?;
            write!(out, "<title>{class}: {value} {unit}</title></circle>")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_the_axes_say() {
        let chart = Chart {
            title: "a < b".to_owned(),
            x: Scale::linear([2.0].into_iter()),
            y: Scale::linear([4.0].into_iter()),
            x_unit: "s",
            y_unit: "ms",
            lines: vec![Line { target: "direct".to_owned(), points: vec![(0.0, 0.0), (2.0, 4.0)] }],
            marks: vec![Mark { at: 1.0, text: "compaction".to_owned() }],
        };
        let mut svg = String::new();
        chart.write(&mut svg).expect("a string takes everything");
        assert!(svg.contains("d='M58.0 230.0L546.0 40.0'"), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("compaction"), "{svg}");
    }
}
