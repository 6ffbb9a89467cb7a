//! A Parquet file, and what must hold of its numbers before the `parquet` crate makes anything of them: it trusts them
//! for the sizes of what it allocates.

use super::header::{self, Header, Kind};
use crate::data::source::paths;
use crate::error::{Error, Result, bail, ensure};
use crate::untrusted::{self, most_unpacked};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The end of a file: the footer's length, and "PAR1".
const TRAILER: u64 = 8;

/// A file whose readers do not share a position: all threads use it at once.
#[derive(Clone)]
pub(super) struct Input {
    pub file: Arc<File>,
    pub size: u64,
    /// The number of the system's last error in it, or 0: the crate makes texts of errors.
    failed: Arc<AtomicI32>,
}

impl Input {
    pub fn open(path: &Path) -> Result<Self> {
        let file = untrusted::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), size, failed: Arc::default() })
    }

    /// The same file, for a reader that fails by itself.
    pub fn apart(&self) -> Self {
        Self { failed: Arc::default(), ..self.clone() }
    }

    /// An error of reading, as the system's if that is where it comes from.
    pub fn explain(&self, error: Error) -> Error {
        match self.failed.load(Ordering::Relaxed) {
            0 => error,
            number => std::io::Error::from_raw_os_error(number).into(),
        }
    }

    /// Bytes of the file.
    fn bytes(&self, start: u64, length: usize) -> std::io::Result<Vec<u8>> {
        paths::read_at(&self.file, start, length).inspect_err(|e| self.remember(e))
    }

    fn remember(&self, error: &std::io::Error) {
        // Readers try again after an interruption.
        if let Some(number) = error.raw_os_error().filter(|_| error.kind() != ErrorKind::Interrupted) {
            self.failed.store(number, Ordering::Relaxed);
        }
    }

    /// The footer.
    pub fn metadata(&self) -> Result<ArrowReaderMetadata> {
        if let Some(start) = self.size.checked_sub(TRAILER) {
            let trailer = paths::read_at(&self.file, start, TRAILER as usize)?;
            let length = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as u64;
            // One that lies beyond the file is reported by the crate.
            if let Some(start) = start.checked_sub(length) {
                header::check_footer(&paths::read_at(&self.file, start, length as usize)?)?;
            }
        }
        let meta = ArrowReaderMetadata::load(self, ArrowReaderOptions::new())?;
        let (mut rows, mut packed) = (0u64, 0u64);
        for group in meta.metadata().row_groups() {
            rows = rows.saturating_add(u64::try_from(group.num_rows())?);
            for column in group.columns() {
                packed = packed.saturating_add(u64::try_from(column.compressed_size())?);
            }
        }
        // One part of a file that stood for many columns would be read as often.
        ensure!(packed <= self.size, "its columns announce {packed} bytes");
        let announced = meta.metadata().file_metadata().num_rows();
        ensure!(announced == rows as i64, "it announces {announced} rows, but its row groups have {rows}");
        Ok(meta)
    }

    /// Where the pages of a column lie in the file.
    pub fn range(&self, column: &ColumnChunkMetaData) -> Result<Range<u64>> {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let (start, size) = (u64::try_from(start)?, u64::try_from(column.compressed_size())?);
        match start.checked_add(size) {
            Some(end) if end <= self.size => Ok(start..end),
            _ => bail!("a column chunk of {size} bytes from {start} on does not lie within it"),
        }
    }

    /// Checks the sizes that the pages of a column announce. Gives the most bytes that one value of it may take which
    /// other values take as well.
    pub fn check_pages(&self, column: &ColumnChunkMetaData) -> Result<u64> {
        const DELTA_BYTE_ARRAY: i64 = 7;
        let Range { start: mut at, end } = self.range(column)?;
        let mut shared = 0;
        while at < end {
            let (header, length) = Header::read(&self.file, at, end)?;
            at += length;
            let (packed, plain) = (u64::try_from(header.packed)?, u64::try_from(header.plain)?);
            let values = u64::try_from(header.values)?;
            ensure!(packed <= end - at, "a page is longer than its column chunk");
            ensure!(plain <= most_unpacked(packed), "a page of {packed} bytes announces {plain}");
            ensure!(values <= self.size, "a page announces {values} values, more than the file has bytes");
            if header.kind == Kind::Dictionary || header.encoding == DELTA_BYTE_ARRAY {
                shared = plain.max(shared);
            }
            if header.kind == Kind::Dictionary {
                ensure!(values <= plain.saturating_mul(8), "a dictionary of {plain} bytes announces {values} values");
            }
            if header.is_packed {
                self.check_unpacked(column.compression(), at..at + packed, &header)?;
            }
            at += packed;
        }
        Ok(shared)
    }

    /// Refuses a page that unpacks to more than it announces, if the crate would unpack it all the same.
    fn check_unpacked(&self, how: Compression, page: Range<u64>, header: &Header) -> Result<()> {
        if !matches!(how, Compression::GZIP(_) | Compression::BROTLI(_)) {
            return Ok(());
        }
        let bytes = paths::read_at(&self.file, page.start, (page.end - page.start) as usize)?;
        // In front of what is packed.
        let levels = u64::try_from(header.def_size)?.saturating_add(u64::try_from(header.rep_size)?);
        let Some(body) = bytes.get(levels as usize..) else { bail!("a page without levels") };
        let plain = (header.plain as u64).saturating_sub(levels);
        let mut unpacked: Box<dyn Read + '_> = match how {
            Compression::GZIP(_) => Box::new(flate2::read::MultiGzDecoder::new(body)),
            _ => Box::new(brotli_decompressor::Decompressor::new(body, 4096)),
        };
        let count = std::io::copy(&mut unpacked.by_ref().take(plain + 1), &mut std::io::sink())?;
        ensure!(count <= plain, "a page unpacks to more than the {plain} bytes that it announces");
        Ok(())
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Input {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        // Page headers are small.
        Ok(BufReader::with_capacity(1024, From { input: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<bytes::Bytes> {
        // A damaged footer asks for the impossible.
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(parquet::errors::ParquetError::EOF(format!("the file has no {length} bytes from {start} on")));
        }
        Ok(self.bytes(start, length)?.into())
    }
}

/// A separate reader from some offset on.
pub(super) struct From {
    input: Input,
    at: u64,
}

impl Read for From {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.file.read_at(out, self.at).inspect_err(|e| self.input.remember(e))?;
        self.at += n as u64;
        Ok(n)
    }
}
