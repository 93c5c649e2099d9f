#pragma once

#include <c10/core/Device.h>

#include <string>

namespace moetap::cli {

/// Reads "cpu", "cuda" or "cuda:N" and makes the device usable. Throws CommandError: for another text with the exit
/// status of a wrong usage, for a device that is not there as a failure.
c10::Device open_device(const std::string& text);

}  // namespace moetap::cli
