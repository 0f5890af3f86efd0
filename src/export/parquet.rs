//! Rows as Apache Parquet: every column optional, one row group a page.
//!
//! Private to `export`. The crate's column writers are used without Arrow, whose arrays nothing else here needs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::DateTime;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

use super::{Column, ColumnKind, ExportError};

/// A file under way.
pub(super) struct ParquetTable {
    columns: &'static [Column],
    writer: SerializedFileWriter<Outlet>,
    outlet: Outlet,
}

impl ParquetTable {
    pub(super) fn new(columns: &'static [Column]) -> Result<Self, ExportError> {
        let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
        let schema = Type::group_type_builder("row").with_fields(fields).build()?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let outlet = Outlet::default();
        let writer = SerializedFileWriter::new(outlet.clone(), Arc::new(schema), Arc::new(properties))?;
        Ok(Self { columns, writer, outlet })
    }

    /// Writes `rows`, objects with the columns' fields, as a row group and returns the file's bytes since the last call.
    pub(super) fn write(&mut self, rows: &[Value]) -> Result<Vec<u8>, ExportError> {
        if rows.is_empty() {
            return Ok(self.outlet.take());
        }
        let mut group = self.writer.next_row_group()?;
        for column in self.columns {
            let cells = || rows.iter().map(|row| (column, &row[column.name]));
            let mut writer = group.next_column()?.ok_or_else(|| ExportError::Value {
                column: column.name,
                value: "anything: the schema has fewer columns".to_owned(),
            })?;
            match column.kind {
                ColumnKind::Text => {
                    let (values, levels) = present(cells(), as_text)?;
                    writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
                }
                ColumnKind::Integer => {
                    let (values, levels) = present(cells(), Value::as_i64)?;
                    writer.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
                }
                ColumnKind::Number => {
                    let (values, levels) = present(cells(), Value::as_f64)?;
                    writer.typed::<DoubleType>().write_batch(&values, Some(&levels), None)?;
                }
                ColumnKind::Time => {
                    let (values, levels) = present(cells(), as_microseconds)?;
                    writer.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
                }
            }
            writer.close()?;
        }
        group.close()?;
        Ok(self.outlet.take())
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, ExportError> {
        self.writer.finish()?;
        Ok(self.outlet.take())
    }
}

fn field(column: &Column) -> Result<TypePtr, ExportError> {
    let (physical, logical) = match column.kind {
        ColumnKind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        ColumnKind::Integer => (PhysicalType::INT64, None),
        ColumnKind::Number => (PhysicalType::DOUBLE, None),
        ColumnKind::Time => (PhysicalType::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
    };
    let builder = Type::primitive_type_builder(column.name, physical).with_repetition(Repetition::OPTIONAL);
    Ok(Arc::new(builder.with_logical_type(logical).build()?))
}

/// The values that are there, and for each row whether it has one (its definition level).
fn present<'v, T>(
    cells: impl Iterator<Item = (&'v Column, &'v Value)>,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<(Vec<T>, Vec<i16>), ExportError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    for (column, cell) in cells {
        if cell.is_null() {
            levels.push(0);
            continue;
        }
        let wrong = || ExportError::Value { column: column.name, value: cell.to_string() };
        values.push(read(cell).ok_or_else(wrong)?);
        levels.push(1);
    }
    Ok((values, levels))
}

fn as_text(value: &Value) -> Option<ByteArray> {
    value.as_str().map(ByteArray::from)
}

fn as_microseconds(value: &Value) -> Option<i64> {
    let moment = DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
    Some(moment.timestamp_micros())
}

/// Where the file's bytes gather until they are taken.
#[derive(Clone, Default)]
struct Outlet(Arc<Mutex<Vec<u8>>>);

impl Outlet {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
