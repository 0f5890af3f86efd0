//! One vocabulary of vector operations, three instruction sets.
//!
//! A kernel is a [`Task`]: its `run` is generic over [`Simd`], marked `#[inline(always)]` with all that it calls, so
//! that it is compiled once inside each of the three entry points of [`run`], where the instruction set is enabled.
//! Nothing outside `nn::ops` sees this file.

use super::Kernel;

/// Vector operations of one instruction set.
///
/// # Safety
/// Every method may be called only where the instruction set is enabled, which [`run`] sees to; those that take a
/// pointer need it valid for the `LANES` (or `count`) floats that they touch. No alignment is needed.
pub(super) trait Simd: Copy {
    /// One vector register.
    type Vector: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Rows of the largest product tile.
    const ROWS: usize;

    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, value: Self::Vector);
    /// Loads `count < LANES` floats, zeros in the other lanes.
    unsafe fn load_partial(from: *const f32, count: usize) -> Self::Vector;
    /// Stores the first `count < LANES` floats.
    unsafe fn store_partial(to: *mut f32, value: Self::Vector, count: usize);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`, with one rounding where the processor can.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `value` where `gate > 0`, else 0.
    unsafe fn where_positive(gate: Self::Vector, value: Self::Vector) -> Self::Vector;

    #[inline(always)]
    unsafe fn zero() -> Self::Vector {
        // SAFETY: the caller has enabled the instruction set.
        unsafe { Self::splat(0.0) }
    }

    /// Loads `count.min(LANES)` floats.
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self::Vector {
        // SAFETY: the caller has enabled the instruction set and `from` holds the floats that are read.
        unsafe { if count >= Self::LANES { Self::load(from) } else { Self::load_partial(from, count) } }
    }

    /// Stores the first `count.min(LANES)` floats.
    #[inline(always)]
    unsafe fn store_up_to(to: *mut f32, value: Self::Vector, count: usize) {
        // SAFETY: the caller has enabled the instruction set and `to` holds the floats that are written.
        unsafe {
            if count >= Self::LANES {
                Self::store(to, value);
            } else {
                Self::store_partial(to, value, count);
            }
        }
    }
}

/// A kernel with its arguments, to be run on one instruction set.
pub(super) trait Task {
    type Output;

    /// Does the work.
    ///
    /// # Safety
    /// The instruction set of `S` is enabled; the implementor's arguments fulfil what its file says of them.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs a task on a kernel variant.
///
/// # Safety
/// The task's arguments fulfil what its file says of them.
///
/// # Panics
/// When this processor lacks the variant.
pub(super) unsafe fn run<T: Task>(kernel: Kernel, task: T) -> T::Output {
    assert!(kernel.is_available(), "this processor has no {}", kernel.name());
    match kernel {
        // SAFETY: the portable operations need no instruction set; the caller vouches for the task.
        Kernel::Portable => unsafe { task.run::<Portable>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: AVX2 and FMA are available by the assertion; the caller vouches for the task.
        Kernel::Avx2 => unsafe { x86::run_avx2(task) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: AVX-512F is available by the assertion; the caller vouches for the task.
        Kernel::Avx512 => unsafe { x86::run_avx512(task) },
        #[cfg(not(target_arch = "x86_64"))]
        Kernel::Avx2 | Kernel::Avx512 => unreachable!("never available on this architecture"),
    }
}

/// Plain Rust; the compiler makes NEON or SSE of it.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Lanes of the portable vector.
const PORTABLE_LANES: usize = 4;

impl Portable {
    #[inline(always)]
    fn zip(
        a: [f32; PORTABLE_LANES],
        b: [f32; PORTABLE_LANES],
        f: impl Fn(f32, f32) -> f32,
    ) -> [f32; PORTABLE_LANES] {
        [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
    }
}

impl Simd for Portable {
    type Vector = [f32; PORTABLE_LANES];
    const LANES: usize = PORTABLE_LANES;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        [value; PORTABLE_LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Vector {
        // SAFETY: `from` holds `LANES` floats; the read is unaligned.
        unsafe { from.cast::<Self::Vector>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::Vector) {
        // SAFETY: `to` holds `LANES` floats; the write is unaligned.
        unsafe { to.cast::<Self::Vector>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self::Vector {
        let mut value = [0.0; PORTABLE_LANES];
        for (lane, slot) in value.iter_mut().enumerate().take(count) {
            // SAFETY: `from` holds `count` floats and `lane < count`.
            *slot = unsafe { *from.add(lane) };
        }
        value
    }

    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, value: Self::Vector, count: usize) {
        for (lane, item) in value.iter().enumerate().take(count) {
            // SAFETY: `to` holds `count` floats and `lane < count`.
            unsafe { *to.add(lane) = *item };
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        let product = |lane: usize| {
            // Without an instruction for it, `mul_add` is a library call a lane.
            if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                a[lane].mul_add(b[lane], c[lane])
            } else {
                a[lane] * b[lane] + c[lane]
            }
        };
        [product(0), product(1), product(2), product(3)]
    }

    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn where_positive(gate: Self::Vector, value: Self::Vector) -> Self::Vector {
        Self::zip(gate, value, |gate, value| if gate > 0.0 { value } else { 0.0 })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Simd, Task};

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<T: Task>(task: T) -> T::Output {
        // SAFETY: AVX2 and FMA are enabled here; the caller vouches for the task.
        unsafe { task.run::<Avx2>() }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn run_avx512<T: Task>(task: T) -> T::Output {
        // SAFETY: AVX-512F is enabled here; the caller vouches for the task.
        unsafe { task.run::<Avx512>() }
    }

    /// Writes the methods that are one intrinsic each.
    macro_rules! intrinsics {
        ($($name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)? = $body:expr;)*) => {$(
            #[inline(always)]
            unsafe fn $name($($argument: $kind),*) $(-> $result)? {
                // SAFETY: the trait's contract: the instruction set is enabled and a pointer holds what is touched.
                unsafe { $body }
            }
        )*};
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx2;

    #[target_feature(enable = "avx2")]
    #[inline]
    fn lane_mask(count: usize) -> __m256i {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
    }

    impl Simd for Avx2 {
        type Vector = __m256;
        const LANES: usize = 8;
        const ROWS: usize = 6;

        intrinsics! {
            splat(value: f32) -> __m256 = _mm256_set1_ps(value);
            load(from: *const f32) -> __m256 = _mm256_loadu_ps(from);
            store(to: *mut f32, value: __m256) = _mm256_storeu_ps(to, value);
            load_partial(from: *const f32, count: usize) -> __m256 = _mm256_maskload_ps(from, lane_mask(count));
            store_partial(to: *mut f32, value: __m256, count: usize) = _mm256_maskstore_ps(to, lane_mask(count), value);
            add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
            sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
            mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
            where_positive(gate: __m256, value: __m256) -> __m256 =
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(gate, _mm256_setzero_ps()), value);
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx512;

    impl Simd for Avx512 {
        type Vector = __m512;
        const LANES: usize = 16;
        const ROWS: usize = 12;

        intrinsics! {
            splat(value: f32) -> __m512 = _mm512_set1_ps(value);
            load(from: *const f32) -> __m512 = _mm512_loadu_ps(from);
            store(to: *mut f32, value: __m512) = _mm512_storeu_ps(to, value);
            load_partial(from: *const f32, count: usize) -> __m512 = _mm512_maskz_loadu_ps((1 << count) - 1, from);
            store_partial(to: *mut f32, value: __m512, count: usize) = _mm512_mask_storeu_ps(to, (1 << count) - 1, value);
            add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
            mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            where_positive(gate: __m512, value: __m512) -> __m512 =
                _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(gate, _mm512_setzero_ps()), value);
        }
    }
}
