//! The kernel variants and the choice among them.
//!
//! The choice is made once a process, by what the processor has, and is part of a replay manifest: two variants
//! differ in their last bits. Tests pass every available variant explicitly.

use std::sync::OnceLock;

/// One implementation of all kernels, by instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Plain Rust, for any processor; compiles to NEON on 64-bit ARM.
    Portable,
    /// x86-64 with AVX2 and FMA: 8 lanes, tiles of 6 × 16.
    Avx2,
    /// x86-64 with AVX-512F: 16 lanes, tiles of 12 × 32.
    Avx512,
}

impl Kernel {
    /// All variants, slowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Whether this processor can run the variant.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// The variants this processor can run, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kernel| kernel.is_available())
    }

    /// The fastest variant this processor can run, found once a process.
    pub fn best() -> Self {
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().unwrap_or(Self::Portable))
    }

    /// The variant's name as it stands in a replay manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Floats in one vector register.
    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Portable => 4,
            Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }
}

/// The name of the variant that this process uses, for a replay manifest.
pub fn kernel_name() -> &'static str {
    Kernel::best().name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_variant_is_available_and_named() {
        assert!(Kernel::best().is_available());
        assert_eq!(kernel_name(), Kernel::best().name());
        assert!(Kernel::available().any(|kernel| kernel == Kernel::Portable));
    }
}
