"""Moving pixels between resolutions: Resize, DepthToSpace, SpaceToDepth."""
