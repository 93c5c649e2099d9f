#pragma once

namespace torch {
class Library;
}

namespace moetap::plugin {

/// Defines `moetap::observe`: see Note [The operator of models without a handle].
void define_observe(torch::Library& library);

}  // namespace moetap::plugin
