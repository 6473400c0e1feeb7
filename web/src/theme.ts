// Slipway's colours over the components' own: harbour blue for what can be pressed, sea green for what is chosen.
import { applyTheme } from '@cloudscape-design/components/theming';

export function theme() {
  applyTheme({ theme: { tokens: {
    colorBackgroundButtonPrimaryDefault: { light: '#0b5c8a', dark: '#7fd1c7' },
    colorBackgroundButtonPrimaryHover: { light: '#083f60', dark: '#a6e3dc' },
    colorBackgroundButtonPrimaryActive: { light: '#062f48', dark: '#a6e3dc' },
    colorTextLinkDefault: { light: '#0b5c8a', dark: '#7fd1c7' },
    colorTextLinkHover: { light: '#083f60', dark: '#a6e3dc' },
    borderRadiusButton: '6px',
    borderRadiusContainer: '8px',
  } } });
}
