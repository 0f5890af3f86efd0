//! gleaner's side of `make bench-peers`: runs the passes that `compare.py` asks for and says how long each took.
//!
//! One request a line on standard input, `train|score NET BATCH PASSES` with NET `small` (28 × 28 × 1) or `resnet18`
//! (32 × 32 × 3); one line of seconds a pass on standard output. A training pass is what the product does: loss of a
//! linear head, gradients, Nesterov SGD over all parameters, running statistics. Scoring is folded inference with the head.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{Device, Tensor};
use gleaner::domain::settings::{BackboneKind, ImageShape};
use gleaner::nn::backbone::Backbone;
use gleaner::nn::graph::{Architecture, Representation};
use gleaner::nn::native::NativeBackbone;
use gleaner::nn::optimizer::{Optimizer, Rule};
use gleaner::nn::parameters::ParameterStore;
use gleaner::nn::{head, initialize, loss};

const CLASS_COUNT: usize = 10;

struct Net {
    backbone: NativeBackbone,
    store: ParameterStore,
    head: ParameterStore,
    optimizers: [Optimizer; 2],
}

impl Net {
    fn new(name: &str) -> anyhow::Result<Self> {
        let architecture = match name {
            "small" => Architecture::new(BackboneKind::Small, ImageShape { size: 28, channels: 1 }),
            "resnet18" => Architecture::new(BackboneKind::Resnet18, ImageShape { size: 32, channels: 3 }),
            other => anyhow::bail!("no net is called {other}"),
        };
        let store = initialize::initial_backbone(&architecture, 1);
        let mut head = head::linear(architecture.feature_count, CLASS_COUNT);
        initialize::initialize_head(&mut head, architecture.feature_count, 1, 1);
        let rule = Rule::Sgd { momentum: 0.9, weight_decay: 5e-4, nesterov: true };
        let optimizers = [Optimizer::new(rule, store.values.len()), Optimizer::new(rule, head.values.len())];
        Ok(Self { backbone: NativeBackbone::new(architecture), store, head, optimizers })
    }

    fn images(&self, count: usize) -> anyhow::Result<Tensor> {
        let image = self.backbone.architecture().image;
        let (size, channels) = (image.size as usize, image.channels as usize);
        let values: Vec<f32> =
            (0..count * size * size * channels).map(|index| (index as f32 * 0.7).sin()).collect();
        Ok(Tensor::from_vec(values, (count, size, size, channels), &Device::Cpu)?)
    }

    fn train(&mut self, images: &Tensor, passes: usize) -> anyhow::Result<Vec<f64>> {
        let targets: Vec<u32> = (0..images.dims()[0]).map(|index| (index % CLASS_COUNT) as u32).collect();
        let mut cross_entropy = |features: &Tensor, head: &[Tensor]| {
            loss::cross_entropy(&head::logits(features, head)?, &targets)
        };
        let mut seconds = Vec::with_capacity(passes);
        for _ in 0..passes {
            let start = Instant::now();
            let step =
                self.backbone.step_gradients(&self.store, &self.head, images, 1, &mut cross_entropy)?;
            let [of_backbone, of_head] = &mut self.optimizers;
            of_backbone.step(&mut self.store.values, &step.backbone, 0.01);
            of_head.step(&mut self.head.values, &step.head, 0.01);
            self.store.update_running(&step.statistics, 0.1);
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }

    fn score(&self, images: &Tensor, passes: usize) -> anyhow::Result<Vec<f64>> {
        let folded = self.backbone.fold(&self.store);
        let mut seconds = Vec::with_capacity(passes);
        for _ in 0..passes {
            let start = Instant::now();
            let features =
                folded.represent(images, Representation::Features)?.flatten_all()?.to_vec1::<f32>()?;
            head::logits_of(&features, &self.head)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }
}

fn main() -> anyhow::Result<()> {
    if let Ok(count) = std::env::var("GLEANER_THREADS") {
        gleaner::nn::ops::set_thread_count(count.parse()?)?;
    }
    let mut nets: HashMap<String, Net> = HashMap::new();
    let mut output = std::io::stdout().lock();
    writeln!(output, "{} {}", gleaner::nn::ops::kernel_name(), gleaner::nn::ops::thread_count())?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, name, batch, passes] = words[..] else {
            anyhow::bail!("want `train|score NET BATCH PASSES`, got `{line}`")
        };
        let net = match nets.entry(name.to_owned()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Net::new(name)?),
        };
        let (images, passes) = (net.images(batch.parse()?)?, passes.parse()?);
        let seconds = match mode {
            "train" => net.train(&images, passes)?,
            "score" => net.score(&images, passes)?,
            other => anyhow::bail!("no mode is called {other}"),
        };
        let seconds: Vec<String> = seconds.iter().map(f64::to_string).collect();
        writeln!(output, "{}", seconds.join(" "))?;
        output.flush()?;
    }
    Ok(())
}
