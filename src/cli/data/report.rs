//! What a source holds.

use super::some;
use crate::data::decode::{Picture, backend};
use crate::data::source::{Content, SourceRef};
use crate::error::{Result, one_line};
use crate::random::Key;
use std::collections::BTreeMap;

/// Images whose sizes are looked at.
const SAMPLE: usize = 1000;

pub fn print(source: &SourceRef, seed: u64) -> Result<()> {
    let name = source.split().unwrap_or("images");
    out!("\n{name}: {} images, {} classes", source.len(), source.class_names().len());
    balance(source);
    sizes(source, seed);
    Ok(())
}

fn balance(source: &SourceRef) {
    let mut counts = vec![0usize; source.class_names().len()];
    let mut unlabelled = 0;
    for i in 0..source.len() {
        match usize::try_from(source.label(i)).ok().and_then(|label| counts.get_mut(label)) {
            Some(count) => *count += 1,
            None => unlabelled += 1,
        }
    }
    if unlabelled > 0 {
        out!("  without a label  {unlabelled}");
    }
    if counts.is_empty() {
        return;
    }
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|i| counts[*i]);
    let name = |i: usize| format!("{} ({})", counts[order[i]], source.class_names()[order[i]]);
    let last = order.len() - 1;
    out!("  images a class   least {}, median {}, most {}", name(0), counts[order[last / 2]], name(last));
    let empty: Vec<String> =
        order.iter().filter(|i| counts[**i] == 0).map(|i| source.class_names()[*i].clone()).collect();
    if !empty.is_empty() {
        out!("  classes without images: {}", some(&empty, 5));
    }
    if counts.len() <= 20 && counts[order[0]] != counts[order[last]] {
        let most = counts[order[last]].max(1);
        for (count, name) in counts.iter().zip(source.class_names()) {
            out!("    {:<24} {count:>8}  {}", name, "#".repeat((count * 40).div_ceil(most)));
        }
    }
}

fn sizes(source: &SourceRef, seed: u64) {
    if let Some([c, h, w]) = source.shape() {
        out!("  size             {w} x {h}, {c} channel(s), every image");
        return;
    }
    let mut indices = Key::new(seed).permutation(source.len());
    indices.truncate(SAMPLE);
    let (mut sizes, mut bytes, mut kinds, mut bad) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
    for index in indices.iter().map(|i| *i as usize) {
        let found = source.read(index).and_then(|mut content| {
            if let Content::Encoded(data) = &content {
                bytes.push(data.len());
                *kinds.entry(kind(data)).or_insert(0usize) += 1;
            }
            Ok(Picture::open(&mut content, false)?.size())
        });
        match found {
            Ok(size) => sizes.push(size),
            Err(e) => bad.push(format!("{}: {}", source.name(index), one_line(&e))),
        }
    }
    let of = if indices.len() == source.len() { "all".to_string() } else { format!("a sample of {}", indices.len()) };
    if !sizes.is_empty() {
        let line = |mut values: Vec<usize>| {
            values.sort_unstable();
            (values[0], values[values.len() / 2], values[values.len() - 1])
        };
        let (w, h) = (line(sizes.iter().map(|s| s.0).collect()), line(sizes.iter().map(|s| s.1).collect()));
        out!("  width            least {}, median {}, most {} (of {of})", w.0, w.1, w.2);
        out!("  height           least {}, median {}, most {}", h.0, h.1, h.2);
        let mean = bytes.iter().sum::<usize>() as f64 / bytes.len().max(1) as f64;
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        out!("  files            {:.1} KB on average; {}", mean / 1000.0, kinds.join(", "));
        out!("  JPEGs            decoded by {}", backend().describe());
    }
    if !bad.is_empty() {
        out!("  broken           {} of {of}: {}; --scan looks at every one", bad.len(), some(&bad, 3));
    }
}

/// What a file is, by its first bytes.
fn kind(data: &[u8]) -> &'static str {
    match image::guess_format(data) {
        Ok(image::ImageFormat::Jpeg) => "JPEG",
        Ok(image::ImageFormat::Png) => "PNG",
        Ok(image::ImageFormat::WebP) => "WebP",
        Ok(image::ImageFormat::Gif) => "GIF",
        Ok(image::ImageFormat::Bmp) => "BMP",
        Ok(image::ImageFormat::Tiff) => "TIFF",
        Ok(image::ImageFormat::Pnm) => "PNM",
        _ => "unknown",
    }
}
