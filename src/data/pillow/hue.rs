//! Turning the hue in 8-bit HSV, as torchvision's `adjust_hue` does through Pillow.

use crate::data::image::Image;

/// Turns the hue by `factor` full circles, −0.5 to 0.5. Grey images stay.
///
/// Hue, saturation and value have 8 bits each, so that even 0 changes colours a little.
pub fn hue(image: &mut Image, factor: f64) {
    if image.channels == 3 {
        let turn = (factor * 255.0) as i32 as u8;
        let sectors = sectors();
        for p in image.data.chunks_exact_mut(3) {
            let [h, s, v] = to_hsv([p[0], p[1], p[2]]);
            p.copy_from_slice(&to_rgb(&sectors, h.wrapping_add(turn), s, v));
        }
    }
}

/// Pillow's conversion from RGB to HSV, with its mixture of single and double precision.
#[inline(always)]
fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(max - v) / range);
    let sector = if r == max {
        bc - gc
    } else if g == max {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    // Between 5/6 and 11/6: the remainder is exact.
    let turns = f64::from(sector) / 6.0 + 1.0;
    let hue = (if turns >= 1.0 { turns - 1.0 } else { turns }) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
}

/// Where each hue lies: the sixth of the circle, and how far into it.
fn sectors() -> [(u8, f32); 256] {
    std::array::from_fn(|h| {
        let turns = h as f64 * 6.0 / 255.0;
        let sector = turns.floor();
        ((sector as u8) % 6, (turns - sector) as f32)
    })
}

/// Pillow's conversion from HSV to RGB.
#[inline(always)]
fn to_rgb(sectors: &[(u8, f32); 256], h: u8, s: u8, v: u8) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let (sector, f) = sectors[h as usize];
    let s = (f64::from(s) / 255.0) as f32;
    // Half up is what C's `round` does to what is not negative.
    let scaled = |less: f64| (f64::from(v) * (1.0 - less) + 0.5) as u8;
    let p = scaled(f64::from(s));
    let q = scaled(f64::from(s * f));
    let t = scaled(f64::from(s) * (1.0 - f64::from(f)));
    match sector {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
