#include "cli/studies/fasta.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "cli/terminal/command_error.h"
#include "plugin/formats/random_access_file.h"

namespace moetap::cli {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;

}  // namespace

int64_t read_fasta(const std::string& path, const FastaParser::Sink& sink) {
  try {
    const plugin::RandomAccessFile file(path);
    int64_t records = 0;
    FastaParser parser([&](std::string_view letters) {
      ++records;
      sink(letters);
    });
    for (int64_t at = 0; at < file.size_bytes(); at += kPieceBytes) {
      const std::string piece = file.read(at, std::min(kPieceBytes, file.size_bytes() - at));
      if (at == 0 && piece.starts_with("\x1f\x8b"))
        throw std::runtime_error("it is compressed; give it to gunzip first");
      parser.read(piece);
    }
    parser.finish();
    return records;
  } catch (const CommandError&) {
    throw;
  } catch (const std::runtime_error& error) {
    const std::string text = error.what();
    throw CommandError(text.find(path) == std::string::npos ? path + ": " + text : text);
  }
}

}  // namespace moetap::cli
