#pragma once

#include "plugin/records/description_keys.h"

namespace moetap::plugin::keys {

// Keys of a shard. `first_row` is in the metadata of the finished file; all are in the head of the .rows file, with
// rank, hooks and name of description_keys.h.
inline constexpr JsonKey kFirstRow{"first_row", "integer: the shard's first row in its series", "rows"};
inline constexpr JsonKey kSeries{"series", "text: COMPONENT or COMPONENT.LAYER", ""};
inline constexpr JsonKey kShard{"shard", "integer: its number in its series", ""};
inline constexpr JsonKey kMaxShardBytes{"max_shard_bytes", "integer: the most that the shard may be large", "bytes"};
inline constexpr JsonKey kAttentionColumns{"attention_columns", "{layer: list of names}; absent: none", ""};
inline constexpr JsonKey kColumns{"columns", "list of objects with name, dtype, shape", ""};
inline constexpr JsonKey kDtype{"dtype", "integer: at::ScalarType", ""};
inline constexpr JsonKey kShape{"shape", "list of integers, without the rows", ""};

// Keys of DumpWriter::Layout in the journal: which layers share their dump rows.
inline constexpr JsonKey kLoops{"loops", "list of places of layers", ""};
inline constexpr JsonKey kLayouts{"components", "{component: {together, apart}}", ""};
inline constexpr JsonKey kTogether{"together", "list of places of layers", ""};
inline constexpr JsonKey kApart{"apart", "list of places of layers", ""};

}  // namespace moetap::plugin::keys
