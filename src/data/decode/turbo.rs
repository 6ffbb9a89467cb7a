//! JPEG by libjpeg-turbo, through `src/ffi/jpeg.c`.
//!
//! The library is opened at run time: the one that `cargo xtask setup` puts beside libtorch (from Pillow's wheel, so
//! that pixels are the reference's own and no assembler is needed to build it), or that of a Pillow installed beside
//! PyTorch.

use super::{DecodedRegion, Metadata, check_claim, cmyk_to_rgb, has_end, most_pixels};
use crate::data::image::{Image, Region};
use crate::error::{Result, bail};
use crate::ffi;
use image::metadata::Orientation;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Names the library to open, or `none` for the pure-Rust decoder.
const CHOICE: &str = "NEPA_LIBJPEG";

/// What decodes JPEGs in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// libjpeg-turbo, from this file.
    LibjpegTurbo(PathBuf),
    /// zune-jpeg.
    ZuneJpeg,
}

impl Backend {
    /// In words, for the log.
    pub fn describe(&self) -> String {
        match self {
            Backend::LibjpegTurbo(path) => format!("libjpeg-turbo ({})", path.display()),
            Backend::ZuneJpeg => "zune-jpeg (pure Rust; libjpeg-turbo, which is faster, was not found)".into(),
        }
    }
}

/// The decoder of JPEGs, looked for once.
pub fn backend() -> &'static Backend {
    static BACKEND: OnceLock<Backend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        let (candidates, asked_for) = match std::env::var_os(CHOICE) {
            Some(path) if path == "none" => return Backend::ZuneJpeg,
            Some(path) => (vec![PathBuf::from(path)], true),
            None => (candidates(), false),
        };
        for path in candidates {
            match open(&path) {
                Ok(()) => return Backend::LibjpegTurbo(path),
                Err(reason) if asked_for => {
                    crate::output::err!("warning: {} ({CHOICE}) is not used: {reason}", path.display())
                }
                Err(_) => {}
            }
        }
        Backend::ZuneJpeg
    })
}

/// Files that may be the library: beside libtorch, above it where a layout keeps it, and in an installed Pillow.
fn candidates() -> Vec<PathBuf> {
    let Some(lib) = ffi::torch_folder() else { return Vec::new() };
    let mut found = Vec::new();
    for folder in [".", "..", "../../pillow.libs", "../../PIL/.dylibs"] {
        let Ok(entries) = std::fs::read_dir(lib.join(folder)) else { continue };
        found.extend(entries.flatten().map(|e| e.path()).filter(|path| {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("libjpeg") && (name.contains(".so.62") || name.ends_with(".62.4.0.dylib"))
        }));
    }
    found
}

fn open(path: &Path) -> Result<()> {
    let text = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: a C string; the answer is null or a static string.
    let fault = unsafe { nepa_jpeg_open(text.as_ptr()) };
    if !fault.is_null() {
        bail!("{}", message(fault));
    }
    match Decoder::new() {
        Some(_) => Ok(()),
        None => bail!("it does not have the interface of libjpeg 6.2"),
    }
}

fn message(text: *const c_char) -> String {
    // SAFETY: the shim gives C strings.
    unsafe { CStr::from_ptr(text).to_string_lossy().into_owned() }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    width: u32,
    height: u32,
    channels: u32,
    exif: *const u8,
    exif_len: usize,
    xmp: *const u8,
    xmp_len: usize,
    header_len: usize,
}

unsafe extern "C" {
    fn nepa_jpeg_open(path: *const c_char) -> *const c_char;
    fn nepa_jpeg_new() -> *mut c_void;
    fn nepa_jpeg_free(decoder: *mut c_void);
    fn nepa_jpeg_header(decoder: *mut c_void, bytes: *const u8, len: usize, info: *mut Info) -> *const c_char;
    fn nepa_jpeg_read(
        decoder: *mut c_void,
        reduction: u32,
        left: *mut u32,
        columns: *mut u32,
        top: u32,
        height: u32,
        out: *mut u8,
        capacity: usize,
    ) -> *const c_char;
    fn nepa_jpeg_abort(decoder: *mut c_void);
    fn nepa_jpeg_warning(decoder: *const c_void) -> *const c_char;
}

/// A decoder of the library.
struct Decoder(*mut c_void);

impl Decoder {
    fn new() -> Option<Self> {
        // SAFETY: called after the library was opened.
        let decoder = unsafe { nepa_jpeg_new() };
        (!decoder.is_null()).then_some(Self(decoder))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: made by nepa_jpeg_new and dropped once.
        unsafe { nepa_jpeg_free(self.0) }
    }
}

thread_local! {
    /// The thread's idle decoder: making one costs as much as a small image.
    static IDLE: RefCell<Option<Decoder>> = const { RefCell::new(None) };
}

/// A JPEG whose header was read.
pub struct Jpeg<'a> {
    decoder: Option<Decoder>,
    info: Info,
    /// 1, or 2, 4 or 8 where it is decoded at that part of its size.
    reduction: u32,
    /// The decoder reads on in them.
    bytes: &'a [u8],
}

impl<'a> Jpeg<'a> {
    /// Reads the header.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let Some(decoder) = IDLE.take().or_else(Decoder::new) else { bail!("not enough memory for a JPEG decoder") };
        let none = std::ptr::null();
        let mut info =
            Info { width: 0, height: 0, channels: 0, exif: none, exif_len: 0, xmp: none, xmp_len: 0, header_len: 0 };
        // SAFETY: the bytes outlive the decoder's use of them: `Jpeg` borrows them and takes the decoder back.
        let fault = unsafe { nepa_jpeg_header(decoder.0, bytes.as_ptr(), bytes.len(), &mut info) };
        let jpeg = Self { decoder: Some(decoder), info, reduction: 1, bytes };
        jpeg.check(fault)?;
        check_claim(info.width as usize, info.height as usize, bytes.len(), most_pixels)?;
        Ok(jpeg)
    }

    /// Whether the coded image has its end marker. If not, only decoding all of it tells whether it is whole.
    pub fn has_end(&self) -> Result<bool> {
        has_end(self.bytes, self.info.header_len)
    }

    fn raw(&self) -> *mut c_void {
        self.decoder.as_ref().expect("there until dropped").0
    }

    fn check(&self, fault: *const c_char) -> Result<()> {
        match fault.is_null() {
            true => Ok(()),
            false => {
                let (fault, size) = (message(fault), self.bytes.len());
                let what =
                    if fault.starts_with("Unsupported") { "a JPEG of an unsupported kind" } else { "damaged JPEG" };
                bail!("{what}: {fault} ({size} bytes)")
            }
        }
    }

    /// Width and height of what is decoded.
    pub fn size(&self) -> (usize, usize) {
        let [width, height] = [self.info.width, self.info.height].map(|n| n.div_ceil(self.reduction) as usize);
        (width, height)
    }

    /// Decodes at 1/2, 1/4 or 1/8 of the size: each pixel is made of the lower frequencies of its part of a block.
    pub fn reduced(mut self, by: usize) -> Self {
        assert!(matches!(by, 1 | 2 | 4 | 8), "a reduction by {by}");
        self.reduction = by as u32;
        self
    }

    /// How the file's Exif or XMP data turn its image.
    pub fn orientation(&self) -> Option<Orientation> {
        self.metadata().turn()
    }

    /// What the file says about its image.
    pub(super) fn metadata(&self) -> Metadata {
        let copy = |data: *const u8, len: usize| {
            // SAFETY: the decoder keeps them until its image is done with, which takes `self`.
            (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data, len) }.to_vec())
        };
        let Info { exif, exif_len, xmp, xmp_len, .. } = self.info;
        Metadata { exif: copy(exif, exif_len), xmp: copy(xmp, xmp_len), is_narrowed: false }
    }

    /// Decodes the part of the image that is wanted: rows below it are not read, rows above and blocks beside it
    /// are read but not transformed.
    pub fn read(self, region: Region) -> Result<DecodedRegion> {
        let channels = self.info.channels as usize;
        // Columns are given out from the start of a block, at most 4 × 8 pixels and a neighbour before the region.
        let widest = (region.width + 34).min(self.size().0);
        let mut data: Vec<u8> = Vec::with_capacity(widest * region.height * channels);
        let (mut left, mut columns) = (region.left as u32, region.width as u32);
        let (top, height) = (region.top as u32, region.height as u32);
        // SAFETY: `data` has the capacity given.
        let fault = unsafe {
            let (out, capacity) = (data.as_mut_ptr(), data.capacity());
            nepa_jpeg_read(self.raw(), self.reduction, &mut left, &mut columns, top, height, out, capacity)
        };
        self.check(fault)?;
        // SAFETY: the decoder has written that many values and checked that there is room for them.
        unsafe { data.set_len(columns as usize * region.height * channels) };
        if channels == 4 {
            data = cmyk_to_rgb(&data);
        }
        let image = Image::new(columns as usize, region.height, 3, data);
        let region = Region { left: region.left - left as usize, top: 0, ..region };
        Ok(DecodedRegion { image, region })
    }

    /// Decodes everything and says what was found wrong on the way.
    pub fn complaint(self) -> Result<Option<String>> {
        let (width, height) = self.size();
        let decoder = self.raw();
        self.read(Region { left: 0, top: 0, width, height })?;
        // SAFETY: the decoder is idle now, kept by this thread.
        let text = unsafe { message(nepa_jpeg_warning(decoder)) };
        Ok((!text.is_empty()).then_some(text))
    }
}

impl Drop for Jpeg<'_> {
    fn drop(&mut self) {
        let decoder = self.decoder.take();
        if let Some(decoder) = &decoder {
            // SAFETY: also right after an error or a whole image.
            unsafe { nepa_jpeg_abort(decoder.0) }
        }
        // The thread may be ending.
        let _ = IDLE.try_with(|idle| *idle.borrow_mut() = decoder);
    }
}
