package import PlatterCore

extension QCOW2Writer: AmendableMap {
  package func amend(_ options: [String: String], _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.amend(options, barrier) }
  }
}

extension QCOW2Writer: RebaseableMap {
  package func setBacking(_ name: [UInt8]?, format: String?, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.setBacking(name: name ?? [], formatName: format, barrier) }
  }
}
