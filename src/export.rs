//! Tables for people: rows of labels, tasks or predictions as CSV, JSON lines or Parquet, page by page in bounded memory.
//!
//! A kind of row says its columns once (`Row::COLUMNS`), and all forms follow. Bytes come out as pages go in, so that a caller can stream them.
//! Pure and synchronous; called by `commands`.

mod parquet;

use std::io;
use std::marker::PhantomData;

use serde::Serialize;

use parquet::ParquetTable;

/// What a column holds; any value may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A moment, serialised as RFC 3339.
    Time,
}

/// A column by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, a field of the row.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
}

impl Column {
    /// A column of text.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: ColumnKind::Text }
    }

    /// A column of whole numbers.
    #[must_use]
    pub const fn integer(name: &'static str) -> Self {
        Self { name, kind: ColumnKind::Integer }
    }

    /// A column of numbers.
    #[must_use]
    pub const fn number(name: &'static str) -> Self {
        Self { name, kind: ColumnKind::Number }
    }

    /// A column of moments.
    #[must_use]
    pub const fn time(name: &'static str) -> Self {
        Self { name, kind: ColumnKind::Time }
    }
}

/// A row of a table, serialised as an object whose fields are `COLUMNS`, in their order.
pub trait Row: Serialize {
    /// The columns.
    const COLUMNS: &'static [Column];
}

/// The form of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet, compressed by Snappy, one row group a page.
    Parquet,
}

/// Why a table can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A row as CSV.
    #[error("a row can't be written as CSV: {0}")]
    Csv(#[from] csv::Error),
    /// A row as JSON.
    #[error("a row can't be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A page as Parquet.
    #[error("a page can't be written as Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    /// A value that isn't of its column's kind.
    #[error("column '{column}' can't hold {value}")]
    Value {
        /// The column.
        column: &'static str,
        /// The value, as JSON.
        value: String,
    },
    /// The buffer of a page.
    #[error("a page can't be written: {0}")]
    Io(#[from] io::Error),
}

/// A table that is being written.
pub struct TableWriter<R> {
    form: FormWriter,
    row: PhantomData<fn(R)>,
}

enum FormWriter {
    Csv { has_header: bool },
    Jsonl,
    Parquet(Box<ParquetTable>),
}

impl<R: Row> TableWriter<R> {
    /// Begins a table.
    ///
    /// # Errors
    /// Columns that Parquet can't hold.
    pub fn new(form: Form) -> Result<Self, ExportError> {
        let form = match form {
            Form::Csv => FormWriter::Csv { has_header: false },
            Form::Jsonl => FormWriter::Jsonl,
            Form::Parquet => FormWriter::Parquet(Box::new(ParquetTable::new(R::COLUMNS)?)),
        };
        Ok(Self { form, row: PhantomData })
    }

    /// The bytes of the next page of rows.
    ///
    /// # Errors
    /// A row that can't be written.
    pub fn write(&mut self, rows: &[R]) -> Result<Vec<u8>, ExportError> {
        match &mut self.form {
            FormWriter::Csv { has_header } => {
                let begins = !std::mem::replace(has_header, true);
                write_csv(rows, begins)
            }
            FormWriter::Jsonl => {
                let mut text = Vec::new();
                for row in rows {
                    serde_json::to_writer(&mut text, row)?;
                    text.push(b'\n');
                }
                Ok(text)
            }
            FormWriter::Parquet(table) => {
                let rows = rows.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
                table.write(&rows)
            }
        }
    }

    /// What follows the last page.
    ///
    /// # Errors
    /// As `write`.
    pub fn finish(mut self) -> Result<Vec<u8>, ExportError> {
        match self.form {
            // A table without rows has a header all the same.
            FormWriter::Csv { has_header: false } => self.write(&[]),
            FormWriter::Csv { .. } | FormWriter::Jsonl => Ok(Vec::new()),
            FormWriter::Parquet(table) => table.finish(),
        }
    }
}

/// A JSON array that is being written, an element a line.
#[derive(Debug, Default)]
pub struct ArrayWriter {
    is_begun: bool,
}

impl ArrayWriter {
    /// The bytes of the next elements.
    ///
    /// # Errors
    /// An element that can't be written.
    pub fn write<T: Serialize>(&mut self, elements: &[T]) -> Result<Vec<u8>, ExportError> {
        let mut text = Vec::new();
        for element in elements {
            let begins = !std::mem::replace(&mut self.is_begun, true);
            text.extend_from_slice(if begins { b"[\n" } else { b",\n" });
            serde_json::to_writer(&mut text, element)?;
        }
        Ok(text)
    }

    /// What follows the last element.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        if self.is_begun { b"]\n".to_vec() } else { b"[]\n".to_vec() }
    }
}

fn write_csv<R: Row>(rows: &[R], begins: bool) -> Result<Vec<u8>, ExportError> {
    let mut text = Vec::new();
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(&mut text);
    if begins {
        writer.write_record(R::COLUMNS.iter().map(|column| column.name))?;
    }
    for row in rows {
        writer.serialize(row)?;
    }
    writer.flush()?;
    drop(writer);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::record::RowAccessor;

    use super::*;

    #[derive(Serialize)]
    struct Answer {
        name: &'static str,
        round: i32,
        seconds: Option<f64>,
        created_at: &'static str,
    }

    impl Row for Answer {
        const COLUMNS: &'static [Column] = &[
            Column::text("name"),
            Column::integer("round"),
            Column::number("seconds"),
            Column::time("created_at"),
        ];
    }

    fn answers() -> Vec<Answer> {
        vec![
            Answer { name: "a,b", round: 1, seconds: Some(1.5), created_at: "2026-01-02T03:04:05Z" },
            Answer { name: "c", round: 2, seconds: None, created_at: "2026-01-02T03:04:05.25Z" },
        ]
    }

    fn open(bytes: &[u8]) -> SerializedFileReader<std::fs::File> {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, bytes).unwrap();
        SerializedFileReader::new(file).unwrap()
    }

    fn written(form: Form, pages: &[Vec<Answer>]) -> Vec<u8> {
        let mut writer = TableWriter::new(form).unwrap();
        let mut bytes: Vec<u8> = pages.iter().flat_map(|page| writer.write(page).unwrap()).collect();
        bytes.extend(writer.finish().unwrap());
        bytes
    }

    #[test]
    fn text_forms_have_one_header_or_none_and_an_empty_table_its_columns() {
        let csv = String::from_utf8(written(Form::Csv, &[answers(), answers()])).unwrap();
        assert_eq!(csv.lines().next(), Some("name,round,seconds,created_at"));
        assert_eq!((csv.lines().count(), csv.matches("\"a,b\",1,1.5,").count()), (5, 2));
        assert_eq!(written(Form::Csv, &[]), b"name,round,seconds,created_at\n");
        let lines = String::from_utf8(written(Form::Jsonl, &[answers()])).unwrap();
        let second: serde_json::Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
        assert_eq!((&second["seconds"], &second["name"]), (&serde_json::Value::Null, &"c".into()));
    }

    #[test]
    fn parquet_reads_back_as_it_was_written_page_by_page() {
        let reader = open(&written(Form::Parquet, &[answers(), answers()]));
        let metadata = reader.metadata();
        assert_eq!((metadata.num_row_groups(), metadata.file_metadata().num_rows()), (2, 4));
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!((rows[2].get_string(0).unwrap().as_str(), rows[2].get_long(1).unwrap()), ("a,b", 1));
        assert_eq!(rows[0].get_double(2).unwrap(), 1.5);
        assert!(rows[1].get_double(2).is_err(), "an absent value is null");
        assert_eq!(rows[1].get_timestamp_micros(3).unwrap(), 1_767_323_045_250_000);
        let empty = open(&written(Form::Parquet, &[]));
        assert_eq!(empty.metadata().file_metadata().num_rows(), 0);
    }

    #[test]
    fn a_value_of_another_kind_is_named_with_its_column() {
        let mut writer = TableWriter::new(Form::Parquet).unwrap();
        let wrong = Answer { created_at: "yesterday", ..answers().remove(0) };
        let error = writer.write(&[wrong]).unwrap_err().to_string();
        assert!(error.contains("created_at") && error.contains("yesterday"), "{error}");
    }
}
