//! Tensors: making, reading and computing with them. Names, order of arguments and defaults are PyTorch's.

pub mod activation;
pub mod arguments;
mod arithmetic;
mod autograd;
pub mod conv;
mod create;
mod fft;
mod in_place;
mod index;
mod init;
mod linalg;
mod losses;
mod math;
mod matrix;
pub mod norms;
mod pairs;
mod pick;
pub mod pool;
mod random;
mod read;
mod read_back;
mod reduce;
mod reshape;
mod sorting;
mod unary;
pub mod vision;

pub use autograd::can_go_backward;

use crate::script::registry::Api;
use crate::script::values::Tensor;
use pairs::ValuesAndIndices;
use read_back::ReadBack;

pub fn register(api: &mut Api<'_>) {
    api.globals(
        "tensors",
        "Making tensors, on the run's device, float32 unless said otherwise.\n\
         Names, order of arguments and defaults are PyTorch's. Any argument may be given by its name in a map that comes \
         last, as in `linspace(0, 1, #{ steps: 5 })`; one that is shown as #name is given so alone.",
        |tensors| {
            create::register(tensors);
            random::register(tensors);
        },
    );
    api.methods::<Tensor>(
        "A libtorch tensor. Passing one shares it; operations make new ones and record gradients.\n\
         Dimensions count from 0; negative ones from the end. Numbers may be ints or floats.\n\
         Every method is a function, too: `x.softmax(-1)` is `softmax(x, -1)`.",
        |tensor| {
            read::register(tensor);
            index::register(tensor);
            arithmetic::register(tensor);
            unary::register(tensor);
            math::register(tensor);
            matrix::register(tensor);
            reduce::register(tensor);
            sorting::register(tensor);
            reshape::register(tensor);
            pick::register(tensor);
            activation::register(tensor);
            norms::register(tensor);
            conv::register(tensor);
            pool::register(tensor);
            vision::register(tensor);
            losses::register(tensor);
            autograd::register(tensor);
            in_place::register(tensor);
        },
    );
    api.methods::<ValuesAndIndices>(
        "What sort, topk, max over a dimension and their like give: `values` and `indices`, also as [0] and [1].",
        pairs::register,
    );
    api.methods::<ReadBack>("Values on their way from the device to the host.", read_back::register);
    api.namespace("linalg", "Linear algebra, as torch.linalg has it.", linalg::register);
    api.namespace("fft", "Fourier transforms, as torch.fft has them.", fft::register);
    api.namespace(
        "init",
        "Initial values, written into tensors in place, as torch.nn.init has them; drawn from the run's generator.",
        init::register,
    );
}
