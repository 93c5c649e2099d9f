#pragma once

#include <cstdint>
#include <string>

#include "cli/studies/fasta_parser.h"

namespace moetap::cli {

/// Reads the file at `path`; returns the number of its records. Throws CommandError with one line that names the file:
/// it cannot be read, is compressed, or is no text.
int64_t read_fasta(const std::string& path, const FastaParser::Sink& sink);

}  // namespace moetap::cli
