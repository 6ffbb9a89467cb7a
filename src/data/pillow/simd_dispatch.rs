//! Loops over pixels, compiled for wide registers where the processor has them.
//!
//! The `multiversion` crate would do, but in development builds, which runs use, it halves the loader's rate (crop,
//! resize and normalise: 125 images/s instead of 260): at a low optimisation level, iterators and closures are inlined
//! before a function gets its target features, not after. So the body here is a function without them.

/// Declares a function twice: as is, and (on x86-64) with AVX2, which is chosen at run time. Both give the same bits: no
/// multiplication is fused with an addition.
macro_rules! simd_dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if std::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has what the function was compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

pub(crate) use simd_dispatch;
