#pragma once

#include <string>
#include <string_view>

namespace moetap::cli {

/// A pickle of protocol 2, as Python's torch.save writes it, in the words that LibTorch's Unpickler understands: an
/// OrderedDict becomes a dict, a torch.Size a tuple, an integer of any length up to eight bytes one of eight, a complex
/// number the one of Python 3. Builds no values and runs no code. Throws std::runtime_error, one line, for an opcode
/// that protocol 2 does not have, and for pickles that would take the Unpickler more memory than they have bytes.
std::string for_unpickler(std::string_view pickle);

}  // namespace moetap::cli
