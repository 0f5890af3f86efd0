//! Tables that jobs exchange: embeddings, `v`, and scores; rows are keyed by content hash, so shards come together in any order.
//!
//! Bytes are little-endian behind a magic with its version; a table names the run of the model that made it, and only tables of one run
//! are joined.

use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;

use super::uncertainty::Uncertainty;
use super::{LearnerError, Result};

const EMBEDDING_MAGIC: &[u8; 8] = b"GLNREMB1";
const PRETEXT_LOSS_MAGIC: &[u8; 8] = b"GLNRPLO1";
const SCORE_MAGIC: &[u8; 8] = b"GLNRSCO2";

/// Classes that a score row names at most.
pub const TOP_COUNT: usize = 3;

/// Embeddings of items under one pretext model.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingTable {
    /// `Manifest::run` of the pretext model, 64 hexadecimal digits.
    pub run: String,
    /// Length E of an embedding.
    pub feature_count: usize,
    /// Content of each row.
    pub hashes: Vec<ContentHash>,
    /// Embeddings, [N, E] row-major.
    pub embeddings: Vec<f32>,
}

impl EmbeddingTable {
    /// A table without rows.
    #[must_use]
    pub fn new(run: String, feature_count: usize) -> Self {
        Self { run, feature_count, hashes: Vec::new(), embeddings: Vec::new() }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The embedding of row `index`, which must be below `len`.
    #[must_use]
    pub fn embedding(&self, index: usize) -> &[f32] {
        &self.embeddings[index * self.feature_count..][..self.feature_count]
    }

    /// Adds a row; `embedding` has `feature_count` numbers.
    pub fn push(&mut self, hash: ContentHash, embedding: &[f32]) {
        debug_assert_eq!(embedding.len(), self.feature_count);
        self.hashes.push(hash);
        self.embeddings.extend_from_slice(embedding);
    }

    /// Appends the rows of another shard.
    ///
    /// # Errors
    /// A shard of another model.
    pub fn append(&mut self, shard: &Self) -> Result<()> {
        if (&shard.run, shard.feature_count) != (&self.run, self.feature_count) {
            return Err(LearnerError::Table("its rows come from another pretext model".to_owned()));
        }
        self.hashes.extend_from_slice(&shard.hashes);
        self.embeddings.extend_from_slice(&shard.embeddings);
        Ok(())
    }

    /// The table's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.len() * (32 + 4 * self.feature_count));
        write_header(&mut bytes, EMBEDDING_MAGIC, &self.run, self.len(), self.feature_count);
        self.hashes.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
        self.embeddings.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        bytes
    }

    /// Reads a table's bytes.
    ///
    /// # Errors
    /// Bytes of something else, of another version, or cut off.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { rest: bytes };
        let (run, count, feature_count) = reader.read_header(EMBEDDING_MAGIC)?;
        let hashes = reader.read_hashes(count)?;
        let embeddings = reader.read_numbers(count.saturating_mul(feature_count))?;
        reader.finish()?;
        Ok(Self { run, feature_count, hashes, embeddings })
    }
}

/// Pretext losses of items under one pretext model.
#[derive(Clone, Debug, PartialEq)]
pub struct PretextLossTable {
    /// `Manifest::run` of the pretext model, 64 hexadecimal digits.
    pub run: String,
    /// Each item with its `v` in nats, at least 0.
    pub rows: Vec<(ContentHash, f32)>,
}

impl PretextLossTable {
    /// Appends the rows of another shard.
    ///
    /// # Errors
    /// A shard of another model.
    pub fn append(&mut self, shard: &Self) -> Result<()> {
        if shard.run != self.run {
            return Err(LearnerError::Table("its rows come from another pretext model".to_owned()));
        }
        self.rows.extend_from_slice(&shard.rows);
        Ok(())
    }

    /// The table's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.rows.len() * 36);
        write_header(&mut bytes, PRETEXT_LOSS_MAGIC, &self.run, self.rows.len(), 1);
        for (hash, loss) in &self.rows {
            bytes.extend_from_slice(&hash.0);
            bytes.extend_from_slice(&loss.to_le_bytes());
        }
        bytes
    }

    /// Reads a table's bytes.
    ///
    /// # Errors
    /// Bytes of something else, of another version, or cut off.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { rest: bytes };
        let (run, count, _) = reader.read_header(PRETEXT_LOSS_MAGIC)?;
        let row = |reader: &mut Reader<'_>| Ok((ContentHash(reader.take_array()?), reader.read_number()?));
        let rows = (0..count).map(|_| row(&mut reader)).collect::<Result<Vec<_>>>()?;
        reader.finish()?;
        Ok(Self { run, rows })
    }
}

/// What the downstream model thinks of one item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreRow {
    /// The item.
    pub hash: ContentHash,
    /// `u` by all measures.
    pub uncertainty: Uncertainty,
    /// The likeliest classes with their probabilities, likeliest first; with fewer classes the rest repeats the last at probability 0.
    pub top: [(ClassIndex, f32); TOP_COUNT],
}

impl ScoreRow {
    /// Judges one distribution over the classes; equal probabilities rank by class index.
    #[must_use]
    pub fn of(hash: ContentHash, probabilities: &[f32]) -> Self {
        let mut top = [(ClassIndex(0), 0.0); TOP_COUNT];
        let mut ranked: Vec<(u16, f32)> = (0..).zip(probabilities.iter().copied()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for (place, slot) in top.iter_mut().enumerate() {
            *slot = match (ranked.get(place), ranked.last()) {
                (Some(&(class, probability)), _) => (ClassIndex(class), probability),
                (None, Some(&(class, _))) => (ClassIndex(class), 0.0),
                (None, None) => (ClassIndex(0), 0.0),
            };
        }
        Self { hash, uncertainty: Uncertainty::of(probabilities), top }
    }

    /// The likeliest class.
    #[must_use]
    pub fn predicted(&self) -> ClassIndex {
        self.top[0].0
    }
}

/// Numbers beside the rows of a score table, `width` for each row.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Numbers for a row, at least 1.
    pub width: usize,
    /// f32 `[N, width]` in the order of the rows.
    pub values: Vec<f32>,
}

impl Column {
    /// A column for tables without rows.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { width, values: Vec::new() }
    }

    /// The numbers of row `index`, which the table must have.
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }
}

/// What strategies read beside `u` and the guesses; each column is there if the scope of the scoring asked for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreColumns {
    /// Distribution over the classes, `[N, C]`.
    pub probabilities: Option<Column>,
    /// What the head sees, `[N, D]`.
    pub features: Option<Column>,
    /// `v` under the fine-tuned backbone in nats, `[N, 1]`.
    pub losses: Option<Column>,
    /// Mutual information of prediction and weights under dropout in nats, `[N, 1]`.
    pub mutual_information: Option<Column>,
}

impl ScoreColumns {
    fn each(&self) -> [&Option<Column>; 4] {
        [&self.probabilities, &self.features, &self.losses, &self.mutual_information]
    }

    fn each_mut(&mut self) -> [&mut Option<Column>; 4] {
        [&mut self.probabilities, &mut self.features, &mut self.losses, &mut self.mutual_information]
    }
}

/// Scores of items under one downstream model.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreTable {
    /// `Manifest::run` of the model, 64 hexadecimal digits.
    pub run: String,
    /// One row an item.
    pub rows: Vec<ScoreRow>,
    /// Further numbers of each row.
    pub columns: ScoreColumns,
}

impl ScoreTable {
    /// Appends the rows of another shard.
    ///
    /// # Errors
    /// A shard of another model, or with other columns.
    pub fn append(&mut self, shard: &Self) -> Result<()> {
        if shard.run != self.run {
            return Err(LearnerError::Table("its rows come from another model".to_owned()));
        }
        let widths = |table: &Self| table.columns.each().map(|column| column.as_ref().map(|c| c.width));
        if widths(self) != widths(shard) {
            return Err(LearnerError::Table("the shards have different columns".to_owned()));
        }
        self.rows.extend_from_slice(&shard.rows);
        for (column, more) in self.columns.each_mut().into_iter().zip(shard.columns.each()) {
            if let (Some(column), Some(more)) = (column, more) {
                column.values.extend_from_slice(&more.values);
            }
        }
        Ok(())
    }

    /// The table's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.rows.len() * 64);
        write_header(&mut bytes, SCORE_MAGIC, &self.run, self.rows.len(), TOP_COUNT);
        for row in &self.rows {
            bytes.extend_from_slice(&row.hash.0);
            let u = &row.uncertainty;
            [u.entropy, u.margin, u.least_confidence]
                .iter()
                .for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
            for (class, probability) in row.top {
                bytes.extend_from_slice(&class.0.to_le_bytes());
                bytes.extend_from_slice(&probability.to_le_bytes());
            }
        }
        for column in self.columns.each() {
            // A width of 0 stands for no column.
            let width = column.as_ref().map_or(0, |column| column.width as u32);
            bytes.extend_from_slice(&width.to_le_bytes());
            let values = column.iter().flat_map(|column| &column.values);
            values.for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        }
        bytes
    }

    /// Reads a table's bytes.
    ///
    /// # Errors
    /// Bytes of something else, of another version, or cut off.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { rest: bytes };
        let (run, count, top_count) = reader.read_header(SCORE_MAGIC)?;
        if top_count != TOP_COUNT {
            return Err(LearnerError::Table(format!("it names {top_count} classes a row, not {TOP_COUNT}")));
        }
        let rows = (0..count).map(|_| reader.read_score()).collect::<Result<Vec<_>>>()?;
        let mut columns = ScoreColumns::default();
        for column in columns.each_mut() {
            let width = u32::from_le_bytes(reader.take_array()?) as usize;
            if width > 0 {
                let values = reader.read_numbers(count.saturating_mul(width))?;
                *column = Some(Column { width, values });
            }
        }
        reader.finish()?;
        Ok(Self { run, rows, columns })
    }
}

fn write_header(bytes: &mut Vec<u8>, magic: &[u8; 8], run: &str, count: usize, width: usize) {
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&(run.len() as u32).to_le_bytes());
    bytes.extend_from_slice(run.as_bytes());
    bytes.extend_from_slice(&(count as u64).to_le_bytes());
    bytes.extend_from_slice(&(width as u32).to_le_bytes());
}

/// Reads from the front of a slice and never past its end.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let cut_off = || LearnerError::Table("it is cut off".to_owned());
        let (front, rest) = self.rest.split_at_checked(count).ok_or_else(cut_off)?;
        self.rest = rest;
        Ok(front)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn read_header(&mut self, magic: &[u8; 8]) -> Result<(String, usize, usize)> {
        if &self.take_array::<8>()? != magic {
            return Err(LearnerError::Table("it is of another kind or version".to_owned()));
        }
        let run_length = u32::from_le_bytes(self.take_array()?) as usize;
        let run = String::from_utf8_lossy(self.take(run_length)?).into_owned();
        let count = usize::try_from(u64::from_le_bytes(self.take_array()?));
        let count = count.map_err(|_| LearnerError::Table("it is larger than the memory".to_owned()))?;
        Ok((run, count, u32::from_le_bytes(self.take_array()?) as usize))
    }

    fn read_hashes(&mut self, count: usize) -> Result<Vec<ContentHash>> {
        let bytes = self.take(count.saturating_mul(32))?;
        Ok(bytes.chunks_exact(32).filter_map(ContentHash::from_slice).collect())
    }

    fn read_numbers(&mut self, count: usize) -> Result<Vec<f32>> {
        let bytes = self.take(count.saturating_mul(4))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn read_number(&mut self) -> Result<f32> {
        Ok(f32::from_le_bytes(self.take_array()?))
    }

    fn read_score(&mut self) -> Result<ScoreRow> {
        let hash = ContentHash(self.take_array()?);
        let uncertainty = Uncertainty {
            entropy: self.read_number()?,
            margin: self.read_number()?,
            least_confidence: self.read_number()?,
        };
        let mut top = [(ClassIndex(0), 0.0); TOP_COUNT];
        for slot in &mut top {
            *slot = (ClassIndex(u16::from_le_bytes(self.take_array()?)), self.read_number()?);
        }
        Ok(ScoreRow { hash, uncertainty, top })
    }

    fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(LearnerError::Table(format!("{} bytes too many follow it", self.rest.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embeddings() -> EmbeddingTable {
        let mut table = EmbeddingTable::new("ab".repeat(32), 3);
        table.push(ContentHash([1; 32]), &[1.0, 2.0, 3.0]);
        table.push(ContentHash([2; 32]), &[4.0, 5.0, 6.0]);
        table
    }

    fn losses() -> PretextLossTable {
        let rows = vec![(ContentHash([1; 32]), 0.5), (ContentHash([2; 32]), 1.5)];
        PretextLossTable { run: "ab".repeat(32), rows }
    }

    fn scores() -> ScoreTable {
        let row = |item: u8, probabilities: &[f32]| ScoreRow::of(ContentHash([item; 32]), probabilities);
        let rows = vec![row(1, &[0.1, 0.7, 0.1, 0.1]), row(2, &[0.5, 0.5])];
        let columns = ScoreColumns {
            features: Some(Column { width: 3, values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] }),
            losses: Some(Column { width: 1, values: vec![0.5, 1.5] }),
            ..ScoreColumns::default()
        };
        ScoreTable { run: "cd".repeat(32), rows, columns }
    }

    #[test]
    fn tables_come_back_from_their_bytes() {
        assert_eq!(EmbeddingTable::from_bytes(&embeddings().to_bytes()).unwrap(), embeddings());
        assert_eq!(PretextLossTable::from_bytes(&losses().to_bytes()).unwrap(), losses());
        assert_eq!(ScoreTable::from_bytes(&scores().to_bytes()).unwrap(), scores());
    }

    #[test]
    fn every_cut_and_every_foreign_beginning_is_refused() {
        let is_read = |bytes: &[u8]| {
            EmbeddingTable::from_bytes(bytes).is_ok()
                || PretextLossTable::from_bytes(bytes).is_ok()
                || ScoreTable::from_bytes(bytes).is_ok()
        };
        for bytes in [embeddings().to_bytes(), losses().to_bytes(), scores().to_bytes()] {
            assert!(is_read(&bytes));
            assert!((0..bytes.len()).all(|end| !is_read(&bytes[..end])));
            assert!(!is_read(&[bytes, vec![0]].concat()));
        }
        // A count far beyond the bytes must not be allocated.
        for mut bytes in [embeddings().to_bytes(), losses().to_bytes(), scores().to_bytes()] {
            bytes[76..84].fill(0xff);
            assert!(!is_read(&bytes));
        }
    }

    #[test]
    fn shards_of_one_model_join_and_others_are_refused() {
        let mut table = embeddings();
        table.append(&embeddings()).unwrap();
        assert_eq!((table.len(), table.embedding(3)), (4, &[4.0, 5.0, 6.0][..]));
        assert!(table.append(&EmbeddingTable::new("00".repeat(32), 3)).is_err());
        let mut measured = losses();
        measured.append(&losses()).unwrap();
        assert_eq!(measured.rows.len(), 4);
        assert!(measured.append(&PretextLossTable { run: "00".to_owned(), rows: vec![] }).is_err());
        let mut scored = scores();
        assert!(scored.append(&ScoreTable { run: "00".to_owned(), ..scores() }).is_err());
        assert!(scored.append(&ScoreTable { columns: ScoreColumns::default(), ..scores() }).is_err());
        scored.append(&scores()).unwrap();
        assert_eq!((scored.rows.len(), scored.columns.features.unwrap().row(3)), (4, &[4.0, 5.0, 6.0][..]));
    }

    #[test]
    fn the_likeliest_classes_stand_first_and_ties_by_index() {
        let rows = scores().rows;
        let classes = |row: &ScoreRow| row.top.map(|(class, _)| class.0);
        assert_eq!((classes(&rows[0]), rows[0].predicted()), ([1, 0, 2], ClassIndex(1)));
        assert_eq!((classes(&rows[1]), rows[1].top[2].1), ([0, 1, 1], 0.0));
    }
}
