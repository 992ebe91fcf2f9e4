//! Aligned tables.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, presets};
use console::Style;

/// How a column is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
    elastic: bool,
}

impl Column {
    /// Words; as wide as they are.
    pub(crate) fn new(title: &'static str) -> Self {
        Self {
            title,
            right: false,
            elastic: false,
        }
    }

    /// Numbers, aligned on the right.
    pub(crate) fn number(title: &'static str) -> Self {
        Self {
            right: true,
            ..Self::new(title)
        }
    }

    /// Words that are cut short where the terminal is too narrow.
    pub(crate) fn elastic(title: &'static str) -> Self {
        Self {
            elastic: true,
            ..Self::new(title)
        }
    }
}

/// Rows under titles. Cells are one line each and may be coloured.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    inner: comfy_table::Table,
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        let columns: Vec<Column> = columns.into_iter().collect();
        let bold = Style::new().bold();
        let mut inner = comfy_table::Table::new();
        inner
            .load_style(presets::NOTHING)
            .set_truncation_indicator("…")
            .set_header(columns.iter().map(|column| bold.apply_to(column.title).to_string()));
        for (column, shown) in columns.iter().zip(inner.column_iter_mut()) {
            shown.set_padding((0, 2));
            if column.right {
                shown.set_cell_alignment(CellAlignment::Right);
            }
            if !column.elastic {
                shown.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        Self { columns, inner }
    }

    /// Adds a row; cells hold what [`safe`](super::safe) makes of foreign text.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row = Row::from(
            cells
                .into_iter()
                .take(self.columns.len())
                .map(Cell::new)
                .collect::<Vec<_>>(),
        );
        row.max_height(1);
        self.inner.add_row(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inner.row_count() == 0
    }

    /// How many lines it has.
    pub(crate) fn height(&self) -> usize {
        1 + self.inner.row_count()
    }

    /// Its lines, within `width` where one is given.
    pub(super) fn render(mut self, width: Option<u16>) -> Vec<String> {
        match width {
            Some(width) => {
                self.inner
                    .set_content_arrangement(ContentArrangement::Dynamic)
                    .set_width(width);
            }
            None => {
                self.inner.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        self.inner.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([Column::new("ID"), Column::elastic("ERROR"), Column::number("SIZE")]);
        table.row([
            "a-1".to_owned(),
            "the gateway took far too long to answer".to_owned(),
            "12".to_owned(),
        ]);
        table.row(["a-22".to_owned(), "no".to_owned(), "1024".to_owned()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_nothing_is_cut_without_a_terminal() {
        assert_eq!(
            table().render(None),
            [
                "ID    ERROR                                    SIZE",
                "a-1   the gateway took far too long to answer    12",
                "a-22  no                                       1024",
            ]
        );
    }

    #[test]
    fn on_a_narrow_terminal_the_elastic_column_gives_way_and_rows_stay_one_line() {
        let lines = table().render(Some(40));
        assert_eq!(lines.len(), 3);
        assert!(
            lines.iter().all(|line| console::measure_text_width(line) <= 40),
            "{lines:#?}"
        );
        assert!(
            lines[1].starts_with("a-1   the gateway") && lines[1].contains('…') && lines[1].ends_with("12"),
            "{lines:#?}"
        );
    }
}
