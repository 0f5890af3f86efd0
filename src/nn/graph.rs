//! Architectures as pure data: which convolutions follow each other, their sizes, their names and where their numbers lie.
//!
//! One graph is the truth for every backbone implementation, for the parameter store and for checkpoints. Names are torchvision's
//! (`layer2.0.downsample.0.weight`), so weights move both ways. Residual networks: He et al. 2016 (arXiv:1512.03385); the 3×3 stem
//! for small images is the usual CIFAR variant. Nothing here computes; any thread may read it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::domain::settings::{BackboneKind, ImageShape};

/// Images up to this edge keep their resolution in the stem; larger ones get the ImageNet stem (7×7, stride 2, max-pool).
pub const SMALL_STEM_SIZE_MAX: u32 = 64;

/// Channels up to which a stage keeps where in the image its features lie: wider ones would make embeddings long.
const GRID_CHANNELS_MAX: usize = 64;

/// Added to a variance before its root is taken, as in PyTorch.
pub const NORM_EPSILON: f32 = 1e-5;

/// The extents of one square convolution without bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Edge of the kernel: 1, 3 or 7.
    pub kernel: usize,
    /// Step in pixels: 1 or 2.
    pub stride: usize,
    /// Zero pixels added on each side.
    pub padding: usize,
    /// Edge of the input in pixels.
    pub in_size: usize,
    /// Edge of the output in pixels.
    pub out_size: usize,
}

impl ConvShape {
    /// Numbers in the weight: kernel × kernel × in × out.
    #[must_use]
    pub fn weight_count(&self) -> usize {
        self.kernel * self.kernel * self.in_channels * self.out_channels
    }

    /// Multiplications and additions of one image's forward pass.
    #[must_use]
    pub fn operation_count(&self) -> u64 {
        2 * (self.weight_count() * self.out_size * self.out_size) as u64
    }
}

/// One convolution with its batch norm: what the tape records and what folding fuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvUnit {
    /// Extents of the convolution.
    pub conv: ConvShape,
    /// Torchvision's name of the convolution (`layer1.0.conv1`).
    pub conv_name: String,
    /// Torchvision's name of the batch norm (`layer1.0.bn1`).
    pub norm_name: String,
    /// The weight in the flat parameters, HWIO: kernel row, kernel column, input channel, output channel.
    pub weight: Range<usize>,
    /// The norm's scale in the flat parameters, one number a channel.
    pub gamma: Range<usize>,
    /// The norm's shift in the flat parameters; begins where `gamma` ends.
    pub beta: Range<usize>,
    /// The running mean in the flat buffers.
    pub running_mean: Range<usize>,
    /// The running (unbiased) variance in the flat buffers; begins where `running_mean` ends.
    pub running_var: Range<usize>,
}

/// A residual block: `relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicBlock {
    /// First convolution; carries the block's stride.
    pub conv1: ConvUnit,
    /// Second convolution, stride 1.
    pub conv2: ConvUnit,
    /// The 1×1 shortcut where stride or channels change, without ReLU; otherwise the shortcut is the input itself.
    pub downsample: Option<ConvUnit>,
}

/// Extents of the max-pool behind the ImageNet stem: 3×3, stride 2, padding 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPoolShape {
    /// Channels in and out.
    pub channels: usize,
    /// Edge of the input in pixels.
    pub in_size: usize,
    /// Edge of the output in pixels.
    pub out_size: usize,
}

/// How a backbone describes an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Representation {
    /// The last stage, averaged over its pixels: what a network that trains as a whole classifies by.
    #[default]
    Features,
    /// All stages, each averaged over the cells of a grid and scaled to unit length: what neighbours and frozen backbones go by.
    ///
    /// The last layers of a pretext task answer its question and forget what doesn't serve it; earlier ones keep it (Gidaris et al.
    /// 2018, table 1; Kolesnikov et al. 2019, arXiv:1901.09005).
    Embedding,
}

/// A stage's part of the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingPart {
    /// Place of the stage's last block among all blocks.
    pub block: usize,
    /// Channels of its output.
    pub channels: usize,
    /// Edge of its output in pixels.
    pub size: usize,
    /// Cells along an edge.
    pub grid: usize,
}

impl EmbeddingPart {
    /// Numbers of this part, cell after cell: grid × grid × channels.
    #[must_use]
    pub fn count(&self) -> usize {
        self.grid * self.grid * self.channels
    }
}

/// A residual network up to its pooled features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Which family.
    pub kind: BackboneKind,
    /// Edge and channels of its input.
    pub image: ImageShape,
    /// First convolution, followed by ReLU.
    pub stem: ConvUnit,
    /// Present with the ImageNet stem only.
    pub max_pool: Option<MaxPoolShape>,
    /// The residual blocks in order; the last one's output is averaged over its pixels.
    pub blocks: Vec<BasicBlock>,
    /// Length D of the pooled feature vector.
    pub feature_count: usize,
    /// What each stage gives to the embedding, in order.
    pub embedding: Vec<EmbeddingPart>,
    /// Length of the flat parameters.
    pub parameter_count: usize,
    /// Length of the flat buffers.
    pub buffer_count: usize,
}

impl Architecture {
    /// The graph of `kind` for images of `image`.
    #[must_use]
    pub fn new(kind: BackboneKind, image: ImageShape) -> Self {
        match kind {
            BackboneKind::Small => Self::residual(kind, image, &[16, 32, 64]),
            BackboneKind::Resnet18 => Self::residual(kind, image, &[64, 128, 256, 512]),
        }
    }

    /// A residual net of two blocks a stage with these channels; every stage but the first halves the resolution.
    ///
    /// `new` is what production uses; tests build narrower nets with this.
    #[must_use]
    pub fn residual(kind: BackboneKind, image: ImageShape, stage_channels: &[usize]) -> Self {
        let mut plan = Plan::default();
        let stem_channels = stage_channels.first().copied().unwrap_or(1);
        let mut size = image.size as usize;
        let large = image.size > SMALL_STEM_SIZE_MAX;
        let (kernel, stride) = if large { (7, 2) } else { (3, 1) };
        let stem = plan.unit("conv1", "bn1", image.channels as usize, stem_channels, kernel, stride, size);
        size = stem.conv.out_size;
        let max_pool = large.then(|| {
            let pool =
                MaxPoolShape { channels: stem_channels, in_size: size, out_size: strided(size, 3, 2, 1) };
            size = pool.out_size;
            pool
        });
        let mut channels = stem_channels;
        let mut blocks = Vec::new();
        let mut embedding = Vec::new();
        for (stage, &width) in stage_channels.iter().enumerate() {
            for place in 0..2 {
                let stride = if place == 0 && stage > 0 { 2 } else { 1 };
                let block = plan.block(&format!("layer{}.{place}", stage + 1), channels, width, stride, size);
                size = block.conv2.conv.out_size;
                channels = width;
                blocks.push(block);
            }
            let grid = if width <= GRID_CHANNELS_MAX { size.min(2) } else { 1 };
            embedding.push(EmbeddingPart { block: blocks.len() - 1, channels, size, grid });
        }
        Self {
            kind,
            image,
            stem,
            max_pool,
            blocks,
            feature_count: channels,
            embedding,
            parameter_count: plan.parameter_count,
            buffer_count: plan.buffer_count,
        }
    }

    /// Every convolution in the order of its parameters: the stem, then each block's conv1, conv2 and downsample.
    pub fn units(&self) -> impl Iterator<Item = &ConvUnit> {
        let blocks = self
            .blocks
            .iter()
            .flat_map(|block| [&block.conv1, &block.conv2].into_iter().chain(&block.downsample));
        std::iter::once(&self.stem).chain(blocks)
    }

    /// Numbers that describe an image.
    #[must_use]
    pub fn width(&self, representation: Representation) -> usize {
        match representation {
            Representation::Features => self.feature_count,
            Representation::Embedding => self.embedding.iter().map(EmbeddingPart::count).sum(),
        }
    }

    /// Multiplications and additions of one image's forward pass, convolutions only.
    #[must_use]
    pub fn operation_count(&self) -> u64 {
        self.units().map(|unit| unit.conv.operation_count()).sum()
    }
}

/// Hands out the ranges while a graph is laid out.
#[derive(Default)]
struct Plan {
    parameter_count: usize,
    buffer_count: usize,
}

impl Plan {
    #[expect(clippy::too_many_arguments, reason = "two names and the five extents of a convolution")]
    fn unit(
        &mut self,
        conv_name: &str,
        norm_name: &str,
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        in_size: usize,
    ) -> ConvUnit {
        let padding = kernel / 2;
        let out_size = strided(in_size, kernel, stride, padding);
        let conv = ConvShape { in_channels, out_channels, kernel, stride, padding, in_size, out_size };
        let weight = take(&mut self.parameter_count, conv.weight_count());
        let gamma = take(&mut self.parameter_count, out_channels);
        let beta = take(&mut self.parameter_count, out_channels);
        let running_mean = take(&mut self.buffer_count, out_channels);
        let running_var = take(&mut self.buffer_count, out_channels);
        let (conv_name, norm_name) = (conv_name.to_owned(), norm_name.to_owned());
        ConvUnit { conv, conv_name, norm_name, weight, gamma, beta, running_mean, running_var }
    }

    fn block(
        &mut self,
        name: &str,
        in_channels: usize,
        width: usize,
        stride: usize,
        size: usize,
    ) -> BasicBlock {
        let named = |part: &str| format!("{name}.{part}");
        let conv1 = self.unit(&named("conv1"), &named("bn1"), in_channels, width, 3, stride, size);
        let conv2 = self.unit(&named("conv2"), &named("bn2"), width, width, 3, 1, conv1.conv.out_size);
        let changes = stride != 1 || in_channels != width;
        let downsample = changes.then(|| {
            self.unit(&named("downsample.0"), &named("downsample.1"), in_channels, width, 1, stride, size)
        });
        BasicBlock { conv1, conv2, downsample }
    }
}

fn take(end: &mut usize, count: usize) -> Range<usize> {
    let start = *end;
    *end += count;
    start..*end
}

/// Edge of the output of a window of `kernel` pixels that moves by `stride` over `size` pixels with `padding` on both sides.
fn strided(size: usize, kernel: usize, stride: usize, padding: usize) -> usize {
    (size + 2 * padding - kernel) / stride + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resnet18(size: u32) -> Architecture {
        Architecture::new(BackboneKind::Resnet18, ImageShape { size, channels: 3 })
    }

    #[test]
    fn resnet18_has_the_parameters_of_torchvision() {
        // torchvision.models.resnet18: 11,689,512 parameters, of which fc has 513,000; its buffers without the step counters: 9,600.
        let graph = resnet18(224);
        assert_eq!(graph.parameter_count, 11_689_512 - 513_000);
        assert_eq!(graph.buffer_count, 9_600);
        assert_eq!(graph.feature_count, 512);
        let last = graph.blocks.last().expect("eight blocks");
        assert_eq!((graph.max_pool.map(|pool| pool.out_size), last.conv2.conv.out_size), (Some(56), 7));
    }

    #[test]
    fn small_images_keep_their_resolution_in_the_stem() {
        let graph = resnet18(32);
        assert_eq!((graph.stem.conv.kernel, graph.stem.conv.out_size, graph.max_pool), (3, 32, None));
        // PERFORMANCE.md: 1.11 GFLOP an image.
        assert!((1_100_000_000..1_120_000_000).contains(&graph.operation_count()));
    }

    #[test]
    fn small_is_the_three_stage_net_of_the_measurements() {
        let graph = Architecture::new(BackboneKind::Small, ImageShape { size: 28, channels: 1 });
        assert_eq!(graph.blocks.len(), 6);
        let sizes: Vec<_> = graph.blocks.iter().map(|block| block.conv2.conv.out_size).collect();
        assert_eq!(sizes, [28, 28, 14, 14, 7, 7]);
        // PERFORMANCE.md: 0.040 GFLOP an image.
        assert!((39_000_000..41_000_000).contains(&graph.operation_count()), "{}", graph.operation_count());
    }

    #[test]
    fn the_ranges_tile_the_flat_parameters_without_a_gap() {
        let graph = resnet18(64);
        let (mut parameter, mut buffer) = (0, 0);
        for unit in graph.units() {
            for range in [&unit.weight, &unit.gamma, &unit.beta] {
                assert_eq!(range.start, parameter);
                parameter = range.end;
            }
            for range in [&unit.running_mean, &unit.running_var] {
                assert_eq!(range.start, buffer);
                buffer = range.end;
            }
        }
        assert_eq!((parameter, buffer), (graph.parameter_count, graph.buffer_count));
    }

    #[test]
    fn names_are_torchvisions() {
        let names: Vec<_> =
            resnet18(32).units().map(|unit| (unit.conv_name.clone(), unit.norm_name.clone())).collect();
        assert_eq!(names[0], ("conv1".to_owned(), "bn1".to_owned()));
        assert!(names.contains(&("layer2.0.downsample.0".to_owned(), "layer2.0.downsample.1".to_owned())));
        assert!(names.contains(&("layer4.1.conv2".to_owned(), "layer4.1.bn2".to_owned())));
        assert_eq!(names.len(), 20);
    }

    #[test]
    fn every_stage_has_its_part_of_the_embedding() {
        let width = |kind, size| {
            Architecture::new(kind, ImageShape { size, channels: 3 }).width(Representation::Embedding)
        };
        assert_eq!(width(BackboneKind::Small, 28), 4 * (16 + 32 + 64));
        assert_eq!(width(BackboneKind::Resnet18, 224), 4 * 64 + 128 + 256 + 512);
        // At 4 pixels the last stage is a single one.
        assert_eq!(width(BackboneKind::Small, 4), 4 * (16 + 32) + 64);
    }

    #[test]
    fn odd_sizes_round_up_as_pytorch_does() {
        let graph = Architecture::new(BackboneKind::Small, ImageShape { size: 27, channels: 1 });
        let sizes: Vec<_> = graph.blocks.iter().map(|block| block.conv2.conv.out_size).collect();
        assert_eq!(sizes, [27, 27, 14, 14, 7, 7]);
    }
}
