package import PlatterCore

extension QCOW2Writer: AmendableMap {
  package func amend(_ options: [String: String], _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in try core.amend(options, barrier) }
  }

  package func setBacking(name: [UInt8]?, formatName: String?, _ barrier: Barrier) throws(ImageError) {
    try locked { core throws(ImageError) in
      try core.setBacking(name: name ?? [], formatName: formatName, barrier)
    }
  }
}
