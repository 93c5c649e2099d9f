#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moetap::cli {

// Note [Partial results]
// A shard's partial.bin: eight bytes "MOETAPPS", u32 version, u64 length of the header, the header as JSON, then for
// each study u64 length and its bytes, then u64 checksum of all that stands before it. Little-endian. The header holds
// all that must be the same in the partials of one analysis (`what`) and which shard this is. Versions of moetap that
// differ do not merge: the bytes of a study are its own.

/// One shard's sums.
struct Partial {
  nlohmann::ordered_json what;  // inputs with their fingerprints, options, shapes, studies, moetap's version
  int64_t shard = 0, num_shards = 1;
  std::vector<std::string> studies;  // bytes, in the order of what["studies"]
};

/// Writes the file whole or not at all. Throws std::runtime_error "cannot write PATH: REASON".
void write_partial(const Partial& partial, const std::string& path);

/// Throws CommandError with one line that names the file: it is no partial, of another version, cut short or changed.
Partial read_partial(const std::string& path);

/// Refuses partials that are not all the shards of one analysis, each once, by CommandError: the line names the files
/// and what differs. `paths` as `partials`.
void check_partials(const std::vector<Partial>& partials, const std::vector<std::string>& paths);

}  // namespace moetap::cli
