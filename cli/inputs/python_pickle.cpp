#include "cli/inputs/python_pickle.h"

#include <torch/csrc/jit/serialization/pickler.h>

#include <cstdint>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

namespace moetap::cli {
namespace {

using Code = torch::jit::PickleOpCode;

struct Op {
  Code code;
  std::string_view text;      // with the code
  std::string_view argument;  // the number of a memo entry, the bytes of an integer, "module\nname\n" of a global
};

/// An integer of `size` bytes, little end first.
size_t read_size(std::string_view bytes) {
  size_t value = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    value |= static_cast<size_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  }
  return value;
}

/// Bytes of the length that stands before an argument, and of an argument of fixed length. Nothing: an opcode that
/// protocol 2 does not have.
struct Layout {
  size_t length_bytes = 0;
  size_t bytes = 0;
};

std::optional<Layout> layout_of(Code code) {
  switch (code) {
    case Code::PROTO:
    case Code::BININT1:
    case Code::BINPUT:
    case Code::BINGET:
      return Layout{0, 1};
    case Code::BININT2:
      return Layout{0, 2};
    case Code::BININT:
    case Code::LONG_BINPUT:
    case Code::LONG_BINGET:
      return Layout{0, 4};
    case Code::BINFLOAT:
      return Layout{0, 8};
    case Code::LONG1:
      return Layout{1, 0};
    case Code::BINUNICODE:
      return Layout{4, 0};
    case Code::MARK:
    case Code::STOP:
    case Code::NONE:
    case Code::NEWTRUE:
    case Code::NEWFALSE:
    case Code::REDUCE:
    case Code::BUILD:
    case Code::NEWOBJ:
    case Code::BINPERSID:
    case Code::EMPTY_DICT:
    case Code::DICT:
    case Code::SETITEM:
    case Code::SETITEMS:
    case Code::EMPTY_LIST:
    case Code::LIST:
    case Code::APPEND:
    case Code::APPENDS:
    case Code::EMPTY_TUPLE:
    case Code::TUPLE:
    case Code::TUPLE1:
    case Code::TUPLE2:
    case Code::TUPLE3:
      return Layout{};
    default:
      return std::nullopt;
  }
}

std::optional<Op> read_op(std::string_view rest) {
  const auto code = static_cast<Code>(rest.front());
  if (code == Code::GLOBAL) {
    const size_t module_end = rest.find('\n');
    const size_t end = module_end == std::string_view::npos ? module_end : rest.find('\n', module_end + 1);
    if (end == std::string_view::npos) return std::nullopt;
    return Op{code, rest.substr(0, end + 1), rest.substr(1, end)};
  }
  const auto layout = layout_of(code);
  if (!layout || rest.size() < 1 + layout->length_bytes) return std::nullopt;
  const size_t begin = 1 + layout->length_bytes;
  const size_t size = layout->length_bytes > 0 ? read_size(rest.substr(1, layout->length_bytes)) : layout->bytes;
  if (rest.size() - begin < size) return std::nullopt;
  return Op{code, rest.substr(0, begin + size), rest.substr(begin, size)};
}

bool makes_container(Code code) {
  switch (code) {
    case Code::EMPTY_DICT:
    case Code::DICT:
    case Code::EMPTY_LIST:
    case Code::LIST:
    case Code::TUPLE:
    case Code::TUPLE1:
    case Code::TUPLE2:
    case Code::TUPLE3:
      return true;
    default:
      return false;
  }
}

/// The Unpickler makes its memo as long as an entry asks for, and values that lie in each other end one in the other:
/// both are bounded here.
std::vector<Op> read_ops(std::string_view pickle) {
  constexpr size_t kMostContainers = 20000;  // a tensor has five
  std::vector<Op> ops;
  size_t num_containers = 0;
  while (!pickle.empty()) {
    const auto op = read_op(pickle);
    if (!op) break;
    const bool puts = op->code == Code::BINPUT || op->code == Code::LONG_BINPUT;
    if (puts && read_size(op->argument) > ops.size()) throw std::runtime_error("its pickle skips entries of the memo");
    num_containers += makes_container(op->code) ? 1 : 0;
    if (num_containers > kMostContainers) {
      throw std::runtime_error("its pickle holds more than 20000 lists, tuples and dicts");
    }
    ops.push_back(*op);
    pickle.remove_prefix(op->text.size());
    if (op->code == Code::STOP) return ops;
  }
  throw std::runtime_error("its pickle is cut short, or has an opcode that is unknown in protocol 2");
}

class Translation {
 public:
  explicit Translation(std::vector<Op> ops) : ops_(std::move(ops)) {}

  std::string text() {
    for (size_t i = 0; i < ops_.size();) {
      i = translate(i);
    }
    return std::move(text_);
  }

 private:
  bool is(size_t place, Code code) const { return place < ops_.size() && ops_[place].code == code; }
  bool is_put(size_t place) const { return is(place, Code::BINPUT) || is(place, Code::LONG_BINPUT); }
  bool is_get(size_t place) const { return is(place, Code::BINGET) || is(place, Code::LONG_BINGET); }

  /// The place after a class and the memo entry that it is put into; `place` itself if another value stands there.
  size_t after_class(size_t place, std::string_view name, std::set<size_t>& memo) const {
    if (is(place, Code::GLOBAL) && ops_[place].argument == name) {
      if (!is_put(place + 1)) return place + 1;
      memo.insert(read_size(ops_[place + 1].argument));
      return place + 2;
    }
    return is_get(place) && memo.count(read_size(ops_[place].argument)) > 0 ? place + 1 : place;
  }

  /// Where the call `class((numbers...))` of a torch.Size ends its argument: the TUPLE1 before REDUCE.
  std::optional<size_t> end_of_size(size_t place) const {
    for (; place < ops_.size(); ++place) {
      switch (ops_[place].code) {
        case Code::TUPLE1:
          if (is(is_put(place + 1) ? place + 2 : place + 1, Code::REDUCE)) return place;
          break;
        case Code::MARK:
        case Code::TUPLE:
        case Code::TUPLE2:
        case Code::TUPLE3:
        case Code::EMPTY_TUPLE:
        case Code::BININT:
        case Code::BININT1:
        case Code::BININT2:
        case Code::LONG1:
        case Code::BINPUT:
        case Code::LONG_BINPUT:
        case Code::BINGET:
        case Code::LONG_BINGET:
          break;
        default:
          return std::nullopt;
      }
    }
    return std::nullopt;
  }

  void add_code(Code code) { text_.push_back(static_cast<char>(code)); }

  /// Writes what stands at `place` and returns the place after it.
  size_t translate(size_t place) {
    const Op& op = ops_[place];
    size_t next = after_class(place, "collections\nOrderedDict\n", ordered_dicts_);
    if (next != place && is(next, Code::EMPTY_TUPLE) && is(next + 1, Code::REDUCE)) {
      add_code(Code::EMPTY_DICT);
      return next + 2;
    }
    next = after_class(place, "torch\nSize\n", sizes_);
    if (const auto end = next != place ? end_of_size(next) : std::nullopt) {
      while (next < *end) next = translate(next);
      return is_put(next + 1) ? next + 3 : next + 2;
    }
    if (op.code == Code::LONG1 && op.argument.size() < 8) {
      const bool negative = !op.argument.empty() && (op.argument.back() & 0x80) != 0;
      add_code(op.code);
      text_.push_back(8);
      text_ += op.argument;
      text_.append(8 - op.argument.size(), negative ? '\xff' : '\0');
    } else if (op.code == Code::GLOBAL && op.argument == "__builtin__\ncomplex\n") {
      text_ += "cbuiltins\ncomplex\n";
    } else {
      text_ += op.text;
    }
    return place + 1;
  }

  std::vector<Op> ops_;
  std::set<size_t> ordered_dicts_, sizes_;  // memo entries that hold the class
  std::string text_;
};

}  // namespace

std::string for_unpickler(std::string_view pickle) {
  return Translation(read_ops(pickle)).text();
}

}  // namespace moetap::cli
