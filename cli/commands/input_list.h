#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moetap::cli {

// The list of a run's inputs, names and sizes, which lies beside the journal while the run is not done. Recorded inputs
// are known by their number alone, so a run goes on only with the inputs that it was begun with, no less and no more.

/// Writes the list into the folder of the journal. Throws std::runtime_error if the disk refuses.
void write_input_list(const std::filesystem::path& journal, const std::vector<std::string>& files);

/// Throws CommandError that names the first input that differs. A run without a list had no forward yet: it goes on
/// with any inputs.
void check_same_inputs(const std::filesystem::path& journal, const std::vector<std::string>& files);

}  // namespace moetap::cli
