#pragma once

#include <string>
#include <string_view>

namespace moetap::cli {

/// A pickle of protocol 2, as Python's torch.save writes it, in the words that LibTorch's Unpickler understands: an
/// OrderedDict becomes a dict, a torch.Size a tuple, an integer of any length up to eight bytes one of eight, a complex
/// number the one of Python 3. What it does not know is left as it is, for the Unpickler to judge. Builds no values and
/// runs no code.
std::string for_unpickler(std::string_view pickle);

}  // namespace moetap::cli
