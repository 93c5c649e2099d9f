#pragma once

namespace torch {
class Library;
}

namespace moetap::plugin {

/// Defines what the Python package needs besides the operators: the class `moetap.Session`, a Session for Python, and
/// `moetap::instrument`, which instruments a model without one.
void define_python_session(torch::Library& library);

}  // namespace moetap::plugin
